"""Make a plan faster: try all plans where there are few; otherwise make small changes while they help.

A change brings a block to another device, or exchanges blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product

from multigpu.multigpu_core.allocation.inventory.inventory import BlockKind

from .plan import AllocationPlan, Placement
from .staging_bytes import best_staging_bytes, staged_bytes

MOST_BLOCKS_TRIED = 4_000
"""Blocks in all plans whose time is predicted, from each start: a fraction of a second."""

MOST_PLANS_TRIED = 7_000
"""Up to so many plans are all tried, in under a second: eight blocks on three devices."""

WORTHWHILE = 0.999

Predict = Callable[[AllocationPlan], float]


def improved(plan: AllocationPlan, capacity_bytes: Mapping[str, int], predict: Predict) -> AllocationPlan:
    """A plan with a shorter step by `predict`, or the same one.

    `capacity_bytes` is what each device that may be used can store; on the compute device, staging included.
    """
    movable = _movable(plan)
    best, best_seconds = plan, predict(plan)
    if len(capacity_bytes) ** len(movable) <= MOST_PLANS_TRIED:
        every = (dict(zip(movable, devices, strict=True)) for devices in product(capacity_bytes, repeat=len(movable)))
        fitting = [each for change in every if (each := _with_devices(plan, change, capacity_bytes)) is not None]
        found = min(fitting, key=predict, default=plan)
        return found if predict(found) < best_seconds * WORTHWHILE else plan
    tries = MOST_BLOCKS_TRIED // max(1, len(plan.placements))
    is_better = True
    while is_better and tries > 0:
        is_better = False
        for changed in _neighbours(best, capacity_bytes):
            tries -= 1
            if tries < 0:
                break
            seconds = predict(changed)
            if seconds < best_seconds * WORTHWHILE:
                best, best_seconds, is_better = changed, seconds, True
                break
    return best


def _movable(plan: AllocationPlan) -> list[int]:
    return [i for i, p in enumerate(plan.placements) if p.block.kind is not BlockKind.HEAD and p.block.size_bytes]


def _neighbours(plan: AllocationPlan, capacity_bytes: Mapping[str, int]) -> Iterator[AllocationPlan]:
    movable = _movable(plan)
    where = [placement.device for placement in plan.placements]
    changes: list[dict[int, str]] = [{i: device} for i in movable for device in capacity_bytes if device != where[i]]
    changes += [{i: where[j], j: where[i]} for i, j in combinations(movable, 2) if where[i] != where[j]]
    for change in itertools.chain(changes, _two_for_one(movable, where)):
        changed = _with_devices(plan, change, capacity_bytes)
        if changed is not None:
            yield changed


def _two_for_one(movable: Sequence[int], where: Sequence[str]) -> Iterator[dict[int, str]]:
    """One block against two of another device: where blocks are of different sizes, no smaller change may fit."""
    for i in movable:
        others = (j for j in movable if where[j] != where[i])
        for j, k in combinations(others, 2):
            if where[j] == where[k]:
                yield {i: where[j], j: where[i], k: where[i]}


def _with_devices(
    plan: AllocationPlan, change: Mapping[int, str], capacity_bytes: Mapping[str, int]
) -> AllocationPlan | None:
    """The plan with some blocks elsewhere, and the staging that fits then; None where it does not fit."""
    placements = list(plan.placements)
    for i, device in change.items():
        placements[i] = Placement(placements[i].block, device)
    changed = replace(plan, placements=tuple(placements))
    if any(size > capacity_bytes.get(device, 0) for device, size in changed.bytes_by_device.items()):
        return None
    streamed = [placement.block for placement in changed.streamed if placement.block.size_bytes]
    if not streamed:
        return replace(changed, staging_bytes=0)
    spare = capacity_bytes[plan.compute_device] - changed.compute_bytes
    if max(map(staged_bytes, streamed)) > spare:
        return None
    return replace(changed, staging_bytes=best_staging_bytes(streamed, spare))
