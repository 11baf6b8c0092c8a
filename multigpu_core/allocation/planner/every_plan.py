"""Every plan of a model of few blocks: with a few large ones, a strategy's own plans can be far from the fastest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product

from .capacity import is_movable
from .plan import AllocationPlan, Placement
from .staging_bytes import best_staging_bytes, staged_bytes

MOST_PLANS = 7_000
"""Up to so many are made: those of eight blocks on three devices. To predict all their steps takes under a second."""


def every_plan(plan: AllocationPlan, capacity_bytes: Mapping[str, int]) -> Iterator[AllocationPlan]:
    """Yield each plan that fits and stores the movable blocks of `plan` on these devices; none if there are too many.

    `capacity_bytes` is what each device can store; on the compute device, staging included.
    """
    movable = [i for i, each in enumerate(plan.placements) if is_movable(each.block.kind, each.block.size_bytes)]
    if len(capacity_bytes) ** len(movable) > MOST_PLANS:
        return
    for devices in product(capacity_bytes, repeat=len(movable)):
        placements = list(plan.placements)
        for i, device in zip(movable, devices, strict=True):
            placements[i] = Placement(placements[i].block, device)
        fitting = _with_staging(replace(plan, placements=tuple(placements)), capacity_bytes)
        if fitting is not None:
            yield fitting


def _with_staging(plan: AllocationPlan, capacity_bytes: Mapping[str, int]) -> AllocationPlan | None:
    """The plan with the staging buffer for which there is room; None if the plan does not fit."""
    if any(size > capacity_bytes.get(device, 0) for device, size in plan.bytes_by_device.items()):
        return None
    streamed = [placement.block for placement in plan.streamed if placement.block.size_bytes]
    if not streamed:
        return replace(plan, staging_bytes=0)
    spare = capacity_bytes[plan.compute_device] - plan.compute_bytes
    if max(map(staged_bytes, streamed)) > spare:
        return None
    return replace(plan, staging_bytes=best_staging_bytes(streamed, spare))
