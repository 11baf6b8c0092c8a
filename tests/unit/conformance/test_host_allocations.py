"""Counting what code allocates in host memory."""

from __future__ import annotations

import torch

from multigpu.testing import HostMemoryMeter, SimulatedMachine


def test_live_and_peak_bytes_follow_what_is_made_and_freed() -> None:
    with HostMemoryMeter() as meter:
        kept = torch.zeros(100)
        temporary = kept * 2
        assert meter.live_bytes == 800
        del temporary
        assert (meter.live_bytes, meter.peak_bytes) == (400, 800)


def test_views_in_place_work_and_older_tensors_cost_nothing() -> None:
    before = torch.zeros(100)
    with HostMemoryMeter() as meter:
        before.view(10, 10).t().add_(1)
        assert meter.peak_bytes == 0


def test_values_on_simulated_devices_are_not_host_memory(simulated_machine: SimulatedMachine) -> None:
    before = torch.ones(100)
    with HostMemoryMeter() as meter:
        there = before.to("npu:0") + 1
        assert meter.peak_bytes == 0
        back = there.cpu()
        assert meter.live_bytes == back.nbytes
