"""Choose the size of the staging buffer: the smallest that costs next to nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile

from multigpu.multigpu_core.devices import HardwareProfile

from .plan import AllocationPlan
from .staging_bytes import staged_bytes, wanted_bytes
from .step_time import predict_step

TOLERANCE = 1.01
"""A smaller buffer may make a step so much longer."""

REASON = "the least within 1 % of the fastest step"

_LAYERS = (3, 4, 5, 6, 8, 11, 15)
"""Sizes that are tried, in places for the largest layer. Each costs some milliseconds.

Two places are enough for many a plan as predicted, and leave no time for what no prediction knows.
"""


def staging_sizes(plan: AllocationPlan) -> list[int]:
    """The sizes worth trying for what a plan streams, up to ``large``."""
    streamed = [placement.block for placement in plan.streamed if placement.block.size_bytes]
    largest = max(map(staged_bytes, streamed), default=0)
    most = wanted_bytes(streamed, "large")
    sizes = {places * largest for places in takewhile(lambda places: places * largest < most, _LAYERS)}
    return sorted(sizes | {most}) if streamed else []


def trade_off(plan: AllocationPlan, profile: HardwareProfile) -> Iterator[tuple[int, float]]:
    """Yield what a step would take in seconds with each size of the staging buffer, in bytes, from ``small`` on."""
    streamed = [placement.block for placement in plan.streamed if placement.block.size_bytes]
    sizes = {wanted_bytes(streamed, "small"), *staging_sizes(plan)} if streamed else ()
    yield from _seconds_by_size(plan, profile, sorted(sizes))


def _seconds_by_size(
    plan: AllocationPlan, profile: HardwareProfile, sizes: Iterable[int]
) -> Iterator[tuple[int, float]]:
    for size in sizes:
        yield size, predict_step(replace(plan, staging_bytes=size), profile).step_seconds


def with_least_staging(plan: AllocationPlan, profile: HardwareProfile, spare_bytes: int) -> AllocationPlan:
    """The plan with the smallest buffer whose step is within a hundredth of the best in the spare memory."""
    sizes = (size for size in staging_sizes(plan) if size <= spare_bytes)
    fitting = [replace(plan, staging_bytes=size, staging_reason=REASON) for size in sizes]
    return least_staged(fitting, profile) or plan  # it has one place at least


def least_staged(plans: Sequence[AllocationPlan], profile: HardwareProfile) -> AllocationPlan | None:
    """Of the plans whose step is within a hundredth of the fastest one's, the one with the least staging, then time."""
    steps = [(plan.staging_bytes, predict_step(plan, profile).step_seconds, i) for i, plan in enumerate(plans)]
    longest = min((seconds for _, seconds, _ in steps), default=0.0) * TOLERANCE
    near = [step for step in steps if step[1] <= longest]
    return plans[min(near)[-1]] if near else None
