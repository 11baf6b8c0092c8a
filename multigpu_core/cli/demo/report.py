"""The demo's result and report: where the weights are stored, what moves, and whether the images are equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops
from rich.console import Console
from rich.table import Table

MIB = 1024**2


class DemoError(RuntimeError):
    """The demo ran but proves nothing; the message says why."""


@dataclass(frozen=True)
class DemoResult:
    """`model` is the split model as the server's ``/multigpu/models`` reports it; the images are files."""

    model: Mapping[str, Any]
    whole_image: Path
    split_image: Path
    differing_pixels: int


def compare_images(one: Path, other: Path) -> int:
    """The number of pixels in which two images differ.

    Raises `DemoError` where an image is of one colour: two of those are alike whatever went wrong.
    """
    with Image.open(one) as first, Image.open(other) as second:
        for file, image in ((one, first), (other, second)):
            if image.getcolors(1) is not None:
                raise DemoError(f"{file} has only one colour, so comparing it proves nothing.")
        if first.size != second.size:
            raise DemoError(f"{one} has {first.size} pixels and {other} has {second.size}.")
        difference = ImageChops.difference(first.convert("RGB"), second.convert("RGB"))
        strongest = reduce(ImageChops.lighter, difference.split())
        differing_pixels: int = sum(strongest.histogram()[1:])
        return differing_pixels


def print_report(result: DemoResult, console: Console) -> None:
    """Tells the allocation, the traffic, the saved image and the verdict, in that order."""
    console.print(_allocation_table(result.model))
    console.print(f"Allocation: {result.model['expert_string']}", soft_wrap=True)
    moved = result.model["step_transfer_bytes"]
    console.print(f"Moved per sampling step: {moved:,} bytes ({moved / MIB:.1f} MiB)")
    console.print(f"Image: {readable_path(result.split_image)}", soft_wrap=True)
    if result.differing_pixels == 0:
        console.print("Identical to the image of one device, pixel for pixel.", style="bold green")
    else:
        console.print(
            f"{result.differing_pixels:,} pixels differ from {readable_path(result.whole_image)}", style="bold red"
        )


def readable_path(path: Path) -> str:
    """The path from here where it is below the current folder, else as it is."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _allocation_table(model: Mapping[str, Any]) -> Table:
    actual: Mapping[str, int] = model["bytes_by_device"]
    total = sum(actual.values())
    table = Table(title=f"{model['name']}, split ({model['strategy']})", title_justify="left")
    table.add_column("Device")
    for heading in ("Blocks", "MiB", "Share"):
        table.add_column(heading, justify="right")
    table.add_column("Role")
    for device, size in actual.items():
        blocks = sum(block["device"] == device for block in model["blocks"])
        role = "computes, and stores" if device == model["compute_device"] else "stores"
        table.add_row(device, str(blocks), f"{size / MIB:.1f}", f"{size / total:.1%}", role)
    return table
