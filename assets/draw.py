"""Draw the icon and the banner that the ComfyUI registry shows: python assets/draw.py

A model's blocks in the colours of the devices that store them, as the panel shows them.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

HERE = Path(__file__).parent
ICON = (400, 400)
BANNER = (1260, 540)
SCALE = 4
"""Drawn this much larger, then reduced: smooth edges."""
GROUND = (24, 26, 31)
DEVICES = ((86, 156, 240), (242, 163, 64), (120, 126, 140))
"""The compute device, a donor, system memory."""
BLOCKS = (0, 1, 0, 0, 1, 0, 2, 0, 1, 0, 0, 2)


def main() -> None:
    draw(ICON, columns=3).save(HERE / "icon.png", optimize=True)
    draw(BANNER, columns=12).save(HERE / "banner.png", optimize=True)


def draw(size: tuple[int, int], columns: int) -> Image.Image:
    """The blocks in rows of `columns`, in the middle of an image of `size` pixels."""
    width, height = (SCALE * pixels for pixels in size)
    image = Image.new("RGB", (width, height), GROUND)
    pen = ImageDraw.Draw(image)
    rows = -(-len(BLOCKS) // columns)
    cell = min(width // (columns + 1), height // (rows + 1))
    tall = cell if rows > 1 else min(3 * cell, height // 2)  # one row alone: bars
    left, top = (width - columns * cell) // 2, (height - rows * tall) // 2
    gap = cell // 10
    for number, device in enumerate(BLOCKS):
        row, column = divmod(number, columns)
        x, y = left + column * cell, top + row * tall
        pen.rounded_rectangle((x + gap, y + gap, x + cell - gap, y + tall - gap), cell // 8, DEVICES[device])
    return image.resize(size, Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
