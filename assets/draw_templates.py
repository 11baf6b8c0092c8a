"""Draw the picture of every example workflow, which ComfyUI's template browser shows: python assets/draw_templates.py

A row for each model of the workflow: twelve blocks in the colours of the devices that store them, and the name of the
device that computes. The blocks are a sketch: their number is not the model's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
SIZE = (640, 360)
MARGIN, BLOCKS, TITLE = 24, 12, 44
GROUND, TEXT, FAINT = (24, 26, 31), (230, 232, 238), (150, 156, 168)
COLOURS = {"cuda:0": (86, 156, 240), "cuda:1": (242, 163, 64), "cuda:2": (96, 190, 120), "cpu": (120, 126, 140)}
DEVICE_INPUTS = ("device", "compute_device", "unet_device", "clip_device", "vae_device", "load_device")


@dataclass(frozen=True)
class Row:
    """A model: its name, where its blocks are stored, and who computes."""

    name: str
    blocks: tuple[str, ...]
    computes: str


def rows_of(nodes: Mapping[str, Any]) -> list[Row]:
    """The models of a recipe, as its nodes place them."""
    return [row for node in nodes.values() for row in _rows(node)]


def _rows(node: Any) -> Iterator[Row]:
    names = [name for name, value in node.inputs.items() if name in DEVICE_INPUTS and value in tuple(COLOURS)]
    for name in names:
        device = node.inputs[name]
        prefix = name.removesuffix("device").removesuffix("compute_").removeprefix("load_")
        expert = str(node.inputs.get(f"{prefix}expert_mode_allocations", ""))
        donor = str(node.inputs.get(f"{prefix}donor_device", "cpu"))
        moves = float(node.inputs.get(f"{prefix}virtual_vram_gb", 0.0)) > 0
        shares = _shares(expert, device) if expert else [(device, 1.0), (donor, 1.0)] if moves else [(device, 1.0)]
        relays = node.inputs.get("strategy") == "relay"
        computes = " and ".join(dict.fromkeys(each for each, _ in shares)) if relays else device
        label = (node.title or node.type).split(",")[0]
        yield Row(f"{label} ({prefix.strip('_')})" if prefix else label, _spread(shares, device), computes)


def _shares(expert: str, compute: str) -> list[tuple[str, float]]:
    """Devices with their parts; what has no number (auto, *) takes one as large as the others."""
    if expert == "auto":
        return [(compute, 1.0), ("cpu", 1.0)]
    pairs = [share.partition(",")[::2] for share in expert.partition("#")[0].split(";")]
    sizes = {device: float("".join(c for c in amount if c.isdigit() or c == ".") or 0) for device, amount in pairs}
    rest = max(sizes.values()) or 1.0
    return [(device, size or rest) for device, size in sizes.items()]


def _spread(shares: Sequence[tuple[str, float]], compute: str) -> tuple[str, ...]:
    """The devices of the blocks, each spread evenly: the one that lags most behind its share comes next."""
    total = sum(size for _, size in shares)
    counts = {device: 0 for device, _ in shares}
    blocks = []
    for number in range(1, BLOCKS + 1):
        device = max(shares, key=lambda share: (share[1] / total * number - counts[share[0]], share[0] == compute))[0]
        counts[device] += 1
        blocks.append(device)
    return tuple(blocks)


def draw(name: str, rows: Sequence[Row]) -> Image.Image:
    image = Image.new("RGB", SIZE, GROUND)
    pen = ImageDraw.Draw(image)
    title, small = ImageFont.load_default(20), ImageFont.load_default(14)
    width, height = SIZE
    pen.text((MARGIN, MARGIN - 8), name, TEXT, title)
    tall = min(64, (height - 2 * TITLE - MARGIN) // max(1, len(rows)))
    cell = (width - 2 * MARGIN) / BLOCKS
    for index, row in enumerate(rows):
        top = TITLE + 8 + index * tall
        pen.text((MARGIN, top), f"{row.name}: computed by {row.computes}", FAINT, small)
        for number, device in enumerate(row.blocks):
            left = MARGIN + number * cell
            box = (left + 2, top + 20, left + cell - 2, top + tall - 6)
            pen.rounded_rectangle(box, 4, COLOURS.get(device, COLOURS["cpu"]))
    left = float(MARGIN)
    for device in [each for each in COLOURS if any(each in row.blocks for row in rows)]:
        pen.rounded_rectangle((left, height - 32, left + 16, height - 16), 3, COLOURS[device])
        pen.text((left + 24, height - 33), f"stored on {device}", TEXT, small)
        left += 150
    return image


def main() -> None:
    sys.path.insert(0, str(EXAMPLES / "sources"))
    from recipes import RECIPES
    from recipes_of_any_node import ANY_NODE
    from recipes_of_integrations import INTEGRATIONS

    for recipe in (*RECIPES, *INTEGRATIONS, *ANY_NODE):
        draw(recipe.name, rows_of(recipe.nodes)).save(EXAMPLES / f"{recipe.name}.jpg", quality=75, optimize=True)


if __name__ == "__main__":
    main()
