"""Speeds are those of the work itself: not of handing it over, and not of a card that is just waking up."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from multigpu.multigpu_core.devices import CpuBackend, DeviceRegistry, Measured, MemoryReading, measure_profile
from multigpu.multigpu_core.devices.backends.base import DeviceBackend

SIDE = 64
WORKS_SECONDS = 0.01


@dataclass
class Clock:
    """Tells the time that the tests' devices take, on however busy a machine."""

    now: float = 0.0

    def perf_counter(self) -> float:
        return self.now


class Beside(DeviceBackend):
    """A device without streams that works beside the host, as Apple's does: only waiting for it takes time."""

    indexed = False
    free_bytes = 1 << 30

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    @property
    def type(self) -> str:
        return "mps"

    def torch_device(self, index: int) -> torch.device:
        return torch.device("cpu")

    def count(self) -> int:
        return 1

    def memory(self, index: int) -> MemoryReading:
        return MemoryReading(self.free_bytes, 1 << 30)

    def marketing_name(self, index: int) -> str:
        return "Beside"

    def synchronize(self, index: int) -> None:
        self.clock.now += WORKS_SECONDS


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that is measured by; copies and matrices are small."""
    clock = Clock()
    monkeypatch.setattr("multigpu.multigpu_core.devices.speeds.measure.time", clock)
    monkeypatch.setattr("multigpu.multigpu_core.devices.speeds.measure.LARGE_SIDE", SIDE)
    monkeypatch.setattr("multigpu.multigpu_core.devices.speeds.measure.MATRIX_SIDE", {"cpu": SIDE})
    monkeypatch.setattr("multigpu.multigpu_core.devices.speeds.measure.COPY_BYTES", 1 << 16)
    return clock


def test_a_device_without_streams_is_waited_for(clock: Clock) -> None:
    profile = measure_profile(DeviceRegistry([CpuBackend(), Beside(clock)]), seconds=0.1)
    assert profile.flops_per_second["mps"]["float32"] <= 2 * SIDE**3 / WORKS_SECONDS
    assert profile.links["mps", "cpu"].pageable_bytes_per_second <= (1 << 16) / WORKS_SECONDS


def test_a_device_that_is_full_is_told_and_left_out(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Beside, "free_bytes", 0)
    told: list[Measured] = []
    profile = measure_profile(DeviceRegistry([CpuBackend(), Beside(clock)]), seconds=0.1, progress=told.append)
    assert not profile.links
    assert any("no free memory" in measured.failure for measured in told)


def test_what_comes_up_to_speed_only_after_a_while_is_measured_when_it_has(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_at_first(one: torch.Tensor, other: torch.Tensor) -> None:
        clock.now += 0.02 if clock.now < 0.1 else 0.001

    monkeypatch.setattr("multigpu.multigpu_core.devices.speeds.measure.torch.matmul", slow_at_first)
    profile = measure_profile(DeviceRegistry([CpuBackend()]), seconds=3)
    assert profile.flops_per_second["cpu"]["float32"] == pytest.approx(2 * SIDE**3 / 0.001)
