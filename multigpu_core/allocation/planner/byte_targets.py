"""How many of a model's movable bytes each device is asked to store.

Every function returns whole bytes, the compute device first and then the donors in the order in which they are filled,
that sum to the model's movable bytes exactly, and warnings about what was bent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

from multigpu.multigpu_core.allocation.language.amounts import readable_bytes
from multigpu.multigpu_core.allocation.language.request import AllocationMode, AllocationRequest, Share

from .capacity import CPU, Room

Quotas = dict[str, int]


def quotas_for(request: AllocationRequest, room: Room) -> tuple[Quotas, list[str]]:
    """The quotas that `request` asks for; explicit ones may be more than there is room for.

    Raises DeviceError for a device that the plan may not use.
    """
    for device in (*(share.device for share in request.shares), *request.donors):
        room.require(device)
    if request.mode is AllocationMode.AUTO:
        return _fill(room, room.movable_bytes, (*room.accelerators, CPU)), []
    if request.mode is AllocationMode.VIRTUAL_VRAM:
        return _virtual_vram(request, room)
    if request.mode is AllocationMode.RATIO:
        return _by_weight(request, room)
    return _by_size(request, room)


def _fill(room: Room, kept: int, donors: Iterable[str]) -> Quotas:
    """Up to `kept` bytes on the compute device, then each donor full in turn; what fits nowhere is left to the last."""
    quotas = {room.compute_device: min(kept, room.free_bytes[room.compute_device])}
    for device in donors:
        if device in room.free_bytes and device not in quotas:
            quotas[device] = min(room.movable_bytes - sum(quotas.values()), room.free_bytes[device])
    last = [*quotas][-1]
    quotas[last] += room.movable_bytes - sum(quotas.values())
    return quotas


def _virtual_vram(request: AllocationRequest, room: Room) -> tuple[Quotas, list[str]]:
    warnings = []
    compute = room.compute_device
    kept = max(0, room.movable_bytes - request.virtual_vram_bytes)
    if kept > room.free_bytes[compute]:
        more = readable_bytes(kept - room.free_bytes[compute])
        warnings.append(f"{compute} has no room for all that virtual VRAM leaves there: {more} more are offloaded.")
    return _fill(room, kept, dict.fromkeys((*request.donors, CPU))), warnings


def _by_weight(request: AllocationRequest, room: Room) -> tuple[Quotas, list[str]]:
    """Percentages, normalised; the compute device stores its heads even if they are more than its part."""
    weights = {share.device: share.amount for share in request.shares}
    for share in request.shares:
        if share.takes_rest:
            weights[share.device] += max(Fraction(0), 100 - sum(weights.values()))
    own = weights.pop(room.compute_device, None)
    others = sum(weights.values(), Fraction(0))
    if not others:
        return {room.compute_device: room.movable_bytes}, []
    asked = None if own is None else int((room.movable_bytes + room.head_bytes) * own / (own + others))
    kept = max(0, (asked or 0) - room.head_bytes)
    return {room.compute_device: kept, **_proportional(room.movable_bytes - kept, weights)}, _heads_warning(asked, room)


def _proportional(size: int, weights: Mapping[str, Fraction]) -> Quotas:
    """`size` split in proportion without losing a byte: each border is rounded down, not each part."""
    total = sum(weights.values(), Fraction(0))
    quotas: Quotas = {}
    reached, border = Fraction(0), 0
    for device, weight in weights.items():
        reached += weight
        next_border = int(size * reached / total)
        quotas[device], border = next_border - border, next_border
    return quotas


def _by_size(request: AllocationRequest, room: Room) -> tuple[Quotas, list[str]]:
    """Byte counts in the order written, as far as the model reaches; the rest to the ``*``, or to cpu."""
    sizes = {share.device: _bytes_asked(share, request.mode, room) for share in request.shares}
    rest = next((share.device for share in request.shares if share.takes_rest), CPU)
    warnings = [] if rest == room.compute_device else _heads_warning(sizes.get(room.compute_device), room)
    quotas: Quotas = {room.compute_device: 0}
    left = room.movable_bytes
    for device, size in sizes.items():
        asked = max(0, size - room.head_bytes) if device == room.compute_device else size
        quotas[device] = min(asked, left)
        left -= quotas[device]
        if quotas[device] < asked and device != rest:
            warnings.append(f"The model is too small to give {device} the {readable_bytes(size)} that were asked for.")
    if left:
        room.require(rest)
        quotas[rest] = quotas.get(rest, 0) + left
    return quotas, warnings


def _bytes_asked(share: Share, mode: AllocationMode, room: Room) -> int:
    if mode is AllocationMode.FRACTION:
        return int(share.amount * room.total_bytes[share.device])
    return int(share.amount)


def _heads_warning(asked: int | None, room: Room) -> list[str]:
    """What to say if the compute device was given a share, but a smaller one than it has to store."""
    if asked is None or asked >= room.head_bytes:
        return []
    return [
        f"{room.compute_device} stores {readable_bytes(room.head_bytes)} instead of {readable_bytes(asked)}: layers "
        "that are needed outside the blocks cannot be offloaded."
    ]
