"""How many of a model's movable bytes each device is asked to store.

Every function returns whole bytes, the compute device first and then the donors in the order in which they are filled,
that sum to the model's movable bytes exactly, and warnings about what was bent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

from multigpu.multigpu_core.allocation.language.amounts import readable_bytes
from multigpu.multigpu_core.allocation.language.request import AllocationMode, AllocationRequest, Share

from .capacity import CPU, Capacity

ByteTargets = dict[str, int]


def byte_targets(request: AllocationRequest, capacity: Capacity) -> tuple[ByteTargets, list[str]]:
    """The quotas that `request` asks for; explicit ones may be more than there is room for.

    Raises DeviceError for a device that the plan may not use.
    """
    for device in (*(share.device for share in request.shares), *request.donors):
        capacity.require(device)
    if request.mode is AllocationMode.AUTO:
        return fill(capacity, capacity.movable_bytes, (*capacity.accelerators, CPU)), []
    if request.mode is AllocationMode.VIRTUAL_VRAM:
        return _virtual_vram(request, capacity)
    if request.mode is AllocationMode.RATIO:
        return _by_weight(request, capacity)
    return _by_size(request, capacity)


def fill(capacity: Capacity, kept: int, donors: Iterable[str]) -> ByteTargets:
    """Up to `kept` bytes on the compute device, then each donor full in turn; what fits nowhere is left to the last."""
    targets = {capacity.compute_device: min(kept, capacity.free_bytes[capacity.compute_device])}
    for device in donors:
        if device in capacity.free_bytes and device not in targets:
            targets[device] = min(capacity.movable_bytes - sum(targets.values()), capacity.free_bytes[device])
    last = [*targets][-1]
    targets[last] += capacity.movable_bytes - sum(targets.values())
    return targets


def _virtual_vram(request: AllocationRequest, capacity: Capacity) -> tuple[ByteTargets, list[str]]:
    warnings = []
    compute = capacity.compute_device
    kept = max(0, capacity.movable_bytes - request.virtual_vram_bytes)
    if kept > capacity.free_bytes[compute]:
        more = readable_bytes(kept - capacity.free_bytes[compute])
        warnings.append(f"{compute} cannot store all weights that virtual VRAM leaves there: offloading {more} more.")
    return fill(capacity, kept, dict.fromkeys((*request.donors, CPU))), warnings


def _by_weight(request: AllocationRequest, capacity: Capacity) -> tuple[ByteTargets, list[str]]:
    """Percentages, normalised; the compute device stores its heads even if they are more than its part."""
    weights = {share.device: share.amount for share in request.shares}
    for share in request.shares:
        if share.takes_rest:
            weights[share.device] += max(Fraction(0), 100 - sum(weights.values()))
    own = weights.pop(capacity.compute_device, None)
    others = sum(weights.values(), Fraction(0))
    if not others:
        return {capacity.compute_device: capacity.movable_bytes}, []
    asked = None if own is None else int((capacity.movable_bytes + capacity.head_bytes) * own / (own + others))
    kept = max(0, (asked or 0) - capacity.head_bytes)
    return {capacity.compute_device: kept, **proportional(capacity.movable_bytes - kept, weights)}, _heads_warning(
        asked, capacity
    )


def proportional(size: int, weights: Mapping[str, Fraction]) -> ByteTargets:
    """`size` split in proportion without losing a byte: each border is rounded down, not each part."""
    total = sum(weights.values(), Fraction(0))
    targets: ByteTargets = {}
    reached, border = Fraction(0), 0
    for device, weight in weights.items():
        reached += weight
        next_border = int(size * reached / total)
        targets[device], border = next_border - border, next_border
    return targets


def _by_size(request: AllocationRequest, capacity: Capacity) -> tuple[ByteTargets, list[str]]:
    """Byte counts in the order written, as far as the model reaches; the rest to the ``*``, or to cpu."""
    sizes = {share.device: _bytes_asked(share, request.mode, capacity) for share in request.shares}
    rest = next((share.device for share in request.shares if share.takes_rest), CPU)
    warnings = [] if rest == capacity.compute_device else _heads_warning(sizes.get(capacity.compute_device), capacity)
    targets: ByteTargets = {capacity.compute_device: 0}
    left = capacity.movable_bytes
    for device, size in sizes.items():
        asked = max(0, size - capacity.head_bytes) if device == capacity.compute_device else size
        targets[device] = min(asked, left)
        left -= targets[device]
        if targets[device] < asked and device != rest:
            warnings.append(f"The model is too small to give {device} the {readable_bytes(size)} that were asked for.")
    if left:
        capacity.require(rest)
        targets[rest] = targets.get(rest, 0) + left
    return targets, warnings


def _bytes_asked(share: Share, mode: AllocationMode, capacity: Capacity) -> int:
    if mode is AllocationMode.FRACTION:
        return int(share.amount * capacity.total_bytes[share.device])
    return int(share.amount)


def _heads_warning(asked: int | None, capacity: Capacity) -> list[str]:
    """What to say if the compute device was given a share, but a smaller one than it has to store."""
    if asked is None or asked >= capacity.head_bytes:
        return []
    return [
        f"{capacity.compute_device} stores {readable_bytes(capacity.head_bytes)} instead of {readable_bytes(asked)}: "
        "layers outside the blocks cannot be offloaded."
    ]
