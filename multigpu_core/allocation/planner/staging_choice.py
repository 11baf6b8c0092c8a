"""Choose the size of the staging buffer: the smallest that costs next to nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    fitting = dict(_seconds_by_size(plan, profile, (size for size in staging_sizes(plan) if size <= spare_bytes)))
    if not fitting:
        return plan  # it has one place at least
    best = min(fitting.values())
    least = min(size for size in fitting if fitting[size] <= best * TOLERANCE)
    return replace(plan, staging_bytes=least, staging_reason=REASON)
