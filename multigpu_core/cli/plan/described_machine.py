"""Parse sizes by device from the command line, and describe machines other than this one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from multigpu.multigpu_core.devices import DeviceInfo

_DEVICE = re.compile(r"[a-z]+(:\d+)?")


def sizes_by_device(options: Iterable[str], option: str) -> dict[str, int]:
    """``cuda:0=10gb`` for each device; sizes in bytes.

    Raises:
        typer.BadParameter: which one is none, and what one looks like.
    """
    from multigpu.multigpu_core.allocation.language.amounts import UNIT_BYTES, parse_number

    sizes = {}
    for text in options:
        device, _, amount = text.strip().lower().partition("=")
        number = amount.rstrip("bkmgt")
        try:
            if not _DEVICE.fullmatch(device):
                raise ValueError
            size = int(parse_number(number) * UNIT_BYTES[amount[len(number) :]])
        except (ValueError, KeyError):
            raise typer.BadParameter(
                f"{text!r} is not a device with a size, such as cuda:0=10gb.", param_hint=option
            ) from None
        if device in sizes:
            raise typer.BadParameter(f"{device} is named twice: number the devices.", param_hint=option)
        sizes[device] = size
    return sizes


def described_machine(options: Iterable[str]) -> list[DeviceInfo]:
    """Devices with so much free memory, in the order in which they are written; the cpu has 1 TB if nothing is said.

    Cards of one size count as cards of one model, between which blocks may be relayed.
    """
    from multigpu.multigpu_core.devices import DeviceInfo

    sizes = sizes_by_device(options, "--machine")
    sizes.setdefault("cpu", 1 << 40)
    infos = []
    for name, size in sizes.items():
        kind, _, index = name.partition(":")
        number = int(index) if index.isdigit() else None
        infos.append(DeviceInfo(name, kind, number, f"{size} bytes", size, size, kind != "cpu", kind != "cpu"))
    return infos
