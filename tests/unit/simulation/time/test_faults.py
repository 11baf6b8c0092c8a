"""Errors of a simulated device reach the host at the next synchronisation, as CUDA's do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from multigpu.testing import SimulatedFaultError, SimulatedMachine

WAITS: dict[str, Callable[[Any, torch.Tensor], object]] = {
    "device": lambda npu, result: npu.synchronize("npu:0"),
    "stream": lambda npu, result: npu.current_stream("npu:0").synchronize(),
    "event": lambda npu, result: npu.current_stream("npu:0").record_event().synchronize(),
    "number": lambda npu, result: result.sum().item(),
    "copy": lambda npu, result: result.cpu(),
}


@pytest.mark.parametrize("is_deferred", [False, True])
@pytest.mark.parametrize("how", WAITS)
def test_the_host_learns_of_it_when_it_waits(simulated_machine: SimulatedMachine, how: str, is_deferred: bool) -> None:
    here = torch.ones(4, device="npu:0")
    with simulated_machine.deferred() if is_deferred else nullcontext():
        simulated_machine.inject_fault("npu:0", "aten.mul*")
        result = here + 1
        result = result * 2
        result = result + 3
        with pytest.raises(SimulatedFaultError, match=r"npu:0 failed at aten\.mul.*issued earlier"):
            WAITS[how](simulated_machine.module, result)
        WAITS[how](simulated_machine.module, here)  # reported once


def test_whoever_waits_for_other_work_learns_nothing(simulated_machine: SimulatedMachine) -> None:
    npu = simulated_machine.module
    here, there = torch.ones(4, device="npu:0"), torch.ones(4, device="npu:1")
    before = npu.current_stream("npu:0").record_event()
    simulated_machine.inject_fault("npu:0")
    here + 1
    there.cpu()
    before.synchronize()
    with pytest.raises(SimulatedFaultError):
        here.cpu()


def test_a_copy_can_fail_as_well(simulated_machine: SimulatedMachine) -> None:
    npu = simulated_machine.module
    there = torch.empty(4, device="npu:0")
    side = npu.Stream(device="npu:0")
    simulated_machine.inject_fault("npu:0", "copy")
    with npu.stream(side):
        there.copy_(npu.empty_pinned(16).view(torch.float32), non_blocking=True)
    npu.current_stream("npu:0").wait_stream(side)
    with pytest.raises(SimulatedFaultError, match="failed at copy"):
        there.cpu()


def test_what_failed_has_computed_nothing(simulated_machine: SimulatedMachine) -> None:
    with simulated_machine.deferred():
        simulated_machine.inject_fault("npu:0", "aten.add*")
        result = torch.ones(4, device="npu:0") + 1
        with pytest.raises(SimulatedFaultError):
            result.cpu()
        assert result.isnan().all()


def test_a_fresh_machine_has_no_faults(simulated_machine: SimulatedMachine) -> None:
    simulated_machine.inject_fault("npu:0")
    simulated_machine.configure([2**20])
    torch.ones(4, device="npu:0").cpu()
