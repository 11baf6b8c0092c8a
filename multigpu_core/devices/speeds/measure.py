"""Measure a machine: how fast each link carries, and how fast each device multiplies matrices."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count, permutations, product

import torch

from multigpu.multigpu_core.devices.registry import DeviceRegistry

from .profile import HardwareProfile, LinkSpeed

COPY_BYTES = 64 * 1024**2
SMALL_COPY_BYTES = 4096
MATRIX_SIDE = {"cpu": 768}
"""Rows and columns of the matrices on a device of that type; of others, `LARGE_SIDE`."""
LARGE_SIDE = 4096
DTYPES = ("float32", "float16", "bfloat16")
SECONDS = 15.0
WARMING, MEASURING = 0.3, 0.4
"""The shares of a measurement's time. Idle cards and links are slow, and need a while until they are not."""
MOST_REPEATS = 1000
SHARE_OF_FREE_MEMORY = 8
"""A measurement takes no more than one part in so many of what is free on a device."""


@dataclass(frozen=True)
class Measured:
    """One figure, the `number`th of `total`: of a link in bytes a second, of a device in operations a second.

    `failure` is why there is none; then `value` is 0.
    """

    what: str
    value: float
    number: int
    total: int
    failure: str = ""


def measure_profile(
    registry: DeviceRegistry, seconds: float = SECONDS, progress: Callable[[Measured], None] = lambda _: None
) -> HardwareProfile:
    """Measure every pair of devices and every device, in about so many seconds in all.

    What a driver refuses is reported to `progress` and left out of the profile. What `progress` raises ends it.
    """
    names = registry.names()
    pairs, products = list(permutations(names, 2)), list(product(names, DTYPES))
    each = seconds / (3 * len(pairs) + len(products))
    numbers, total = count(1), len(pairs) + len(products)
    links: dict[tuple[str, str], LinkSpeed] = {}
    rates: dict[str, dict[str, float]] = {}

    def tell(what: str, value: float, failure: str = "") -> None:
        progress(Measured(what, value, next(numbers), total, failure))

    for source, target in pairs:
        what = f"{source} to {target}"
        try:
            speed = _measure_link(registry, source, target, each)
        except RuntimeError as error:
            tell(what, 0.0, str(error))
        else:
            links[source, target] = speed
            tell(what, speed.bytes_per_second)
    for name, dtype in products:
        what = f"{name} in {dtype}"
        try:
            rate = _measure_rate(registry, name, dtype, each)
        except RuntimeError as error:  # a device that does not compute in this type
            tell(what, 0.0, str(error))
        else:
            rates.setdefault(name, {})[dtype] = rate
            tell(what, rate)
    return HardwareProfile(links, rates, is_measured=True)


def _measure_link(registry: DeviceRegistry, source: str, target: str, seconds: float) -> LinkSpeed:
    size = min(COPY_BYTES, *(registry.free_bytes(name) // SHARE_OF_FREE_MEMORY for name in (source, target)))
    if size < SMALL_COPY_BYTES:
        raise RuntimeError("it has no free memory to measure with")
    ordinary = [_ordinary(registry, name, size) for name in (source, target)]
    best = [_locked(registry, name, size, other) for name, other in ((source, target), (target, source))]
    on = target if source == "cpu" else source

    def rate(memories: list[torch.Tensor], count: int) -> float:
        given, taken = memories[0][:count], memories[1][:count]
        return _seconds_of(registry, on, lambda: taken.copy_(given, non_blocking=True), seconds)

    latency = rate(best, SMALL_COPY_BYTES)
    return LinkSpeed(size / max(1e-9, rate(best, size) - latency), size / rate(ordinary, size), latency)


def _ordinary(registry: DeviceRegistry, name: str, size: int) -> torch.Tensor:
    return torch.zeros(size, dtype=torch.uint8, device=registry.torch_device(name))


def _locked(registry: DeviceRegistry, name: str, size: int, other: str) -> torch.Tensor:
    """Memory from which copies are as fast as they can be."""
    if name == "cpu":
        try:
            return registry.empty_pinned(size, other).zero_()
        except (RuntimeError, NotImplementedError):
            pass
    return _ordinary(registry, name, size)


def _measure_rate(registry: DeviceRegistry, name: str, dtype: str, seconds: float) -> float:
    device = registry.torch_device(name)
    side = MATRIX_SIDE.get(device.type, LARGE_SIDE)
    while 3 * 4 * side**2 > registry.free_bytes(name) // SHARE_OF_FREE_MEMORY and side > 64:
        side //= 2
    matrix = torch.zeros(side, side, dtype=getattr(torch, dtype), device=device)
    return 2 * side**3 / _seconds_of(registry, name, partial(torch.matmul, matrix, matrix), seconds)


def _seconds_of(registry: DeviceRegistry, name: str, work: Callable[[], object], seconds: float) -> float:
    """What the work takes, in the mean of as many times as there is time for, once all is up to speed."""
    with registry.device_scope(name):
        _timed(registry, name, work, 1)  # loads libraries and opens ways, which may take longer than all that follows
        once = _timed(registry, name, work, 1)
        warming, measuring = (min(MOST_REPEATS, int(share * seconds / once)) for share in (WARMING, MEASURING))
        if warming:
            _timed(registry, name, work, warming)
        return _timed(registry, name, work, max(1, measuring))


def _timed(registry: DeviceRegistry, name: str, work: Callable[[], object], repeats: int) -> float:
    streams = registry.streams(name)
    registry.synchronize(name)
    if streams is None:
        begin = time.perf_counter()
        for _ in range(repeats):
            work()
        registry.synchronize(name)  # what has no streams may work beside the host all the same
        return max((time.perf_counter() - begin) / repeats, 1e-9)
    stream = streams.current_stream(registry.torch_device(name))
    start, end = streams.Event(enable_timing=True), streams.Event(enable_timing=True)
    start.record(stream)
    for _ in range(repeats):
        work()
    end.record(stream)
    end.synchronize()
    return max(start.elapsed_time(end) / 1000 / repeats, 1e-9)
