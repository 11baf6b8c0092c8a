"""Memory that is freed, used again, or touched by the host while a simulated device may still use it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from multigpu.testing import SimulatedMachine, SimulatedRaceError


@pytest.fixture
def machine(simulated_machine: SimulatedMachine) -> SimulatedMachine:
    return simulated_machine


@pytest.fixture
def npu(machine: SimulatedMachine) -> Iterator[Any]:
    machine.detect_races = True
    yield machine.module
    machine.detect_races = False


def pinned(npu: Any, numbers: int = 4) -> Tensor:
    memory: Tensor = npu.empty_pinned(4 * numbers).view(torch.float32)
    return memory


def read_on_a_side_stream(npu: Any) -> tuple[Tensor, Any]:
    """A tensor of the default stream, and a side stream that reads it; they are in order so far."""
    memory = torch.ones(4, device="npu:0")
    side = npu.Stream(device="npu:0")
    side.wait_stream(npu.current_stream("npu:0"))
    with npu.stream(side):
        memory + 1
    return memory, side


def test_memory_is_used_again_while_another_stream_reads_it(npu: Any) -> None:
    memory, _ = read_on_a_side_stream(npu)
    del memory
    with pytest.raises(SimulatedRaceError, match=r"the next allocation on npu:0 .*add.* record_stream"):
        torch.empty(1, device="npu:0")


def test_each_stream_has_memory_of_its_own(npu: Any) -> None:
    memory, side = read_on_a_side_stream(npu)
    del memory
    with npu.stream(side):
        torch.empty(4, device="npu:0")
    torch.empty(4, device="npu:1")
    with pytest.raises(SimulatedRaceError, match="the next allocation"):
        torch.empty(4, device="npu:0")


@pytest.mark.parametrize("how", ["the stream waits", "the host waits", "record_stream", "the device is synchronized"])
def test_memory_may_be_used_again_after_the_other_stream(npu: Any, how: str) -> None:
    memory, side = read_on_a_side_stream(npu)
    if how == "record_stream":
        memory.record_stream(side)
    del memory
    if how == "the stream waits":
        npu.current_stream("npu:0").wait_stream(side)
    elif how == "the host waits":
        side.synchronize()
    elif how == "the device is synchronized":
        npu.synchronize("npu:0")
    torch.empty(4, device="npu:0")


def test_a_stream_that_was_not_recorded_is_not_waited_for(npu: Any) -> None:
    memory, side = read_on_a_side_stream(npu)
    third = npu.Stream(device="npu:0")
    third.wait_stream(side)
    with npu.stream(third):
        memory * 2
    memory.record_stream(side)
    del memory
    with pytest.raises(SimulatedRaceError, match="mul"):
        torch.empty(4, device="npu:0")


def test_memory_of_one_stream_is_used_again_without_further_ado(npu: Any) -> None:
    for _ in range(3):
        torch.ones(4, device="npu:0") + 1


def test_a_view_keeps_the_memory_from_being_used_again(npu: Any) -> None:
    memory, _ = read_on_a_side_stream(npu)
    view = memory[1:]
    del memory
    torch.empty(4, device="npu:0")
    del view
    with pytest.raises(SimulatedRaceError):
        torch.empty(4, device="npu:0")


def test_unpinning_memory_under_a_copy_is_found_at_the_next_call(npu: Any) -> None:
    there = torch.empty(4, device="npu:0")
    there.copy_(pinned(npu), non_blocking=True)
    with pytest.raises(SimulatedRaceError, match=r"unpinning on the host .*copy on npu:0 .*Synchronize"):
        there + 1


def test_waiting_after_the_memory_was_unpinned_is_too_late(npu: Any) -> None:
    there = torch.empty(4, device="npu:0")
    there.copy_(pinned(npu), non_blocking=True)
    npu.synchronize("npu:0")
    with pytest.raises(SimulatedRaceError, match="unpinning"):
        there + 1


def test_memory_that_is_unpinned_last_is_found_at_the_end_of_the_block(machine: SimulatedMachine) -> None:
    def leave_a_copy_behind() -> None:
        torch.empty(4, device="npu:0").copy_(pinned(machine.module), non_blocking=True)

    with pytest.raises(SimulatedRaceError, match="unpinning"), machine.detecting_races():
        leave_a_copy_behind()
    assert not machine.detect_races


def test_memory_may_be_unpinned_when_its_copies_are_over(npu: Any) -> None:
    there, memory = torch.empty(4, device="npu:0"), pinned(npu)
    there.copy_(memory, non_blocking=True)
    npu.current_stream("npu:0").synchronize()
    del memory
    there + 1


def test_the_host_may_not_write_what_a_copy_may_still_read(machine: SimulatedMachine) -> None:
    with machine.detecting_races():
        there, memory = torch.empty(4, device="npu:0"), pinned(machine.module)
        there.copy_(memory, non_blocking=True)
        memory.sum()  # both only read
        with pytest.raises(SimulatedRaceError, match=r"fill_.* on the host and copy on npu:0"):
            memory.fill_(1)
        machine.module.synchronize("npu:0")
        memory.fill_(1)


def test_the_host_may_not_read_what_a_copy_may_still_write(machine: SimulatedMachine) -> None:
    with machine.detecting_races():
        memory = pinned(machine.module)
        done = machine.module.Event()
        memory[:2].copy_(torch.ones(2, device="npu:0"), non_blocking=True)
        done.record(machine.module.current_stream("npu:0"))
        memory[2:].clone()  # not what the copy writes
        with pytest.raises(SimulatedRaceError, match=r"clone.* on the host and copy on npu:0"):
            memory.clone()
        done.synchronize()
        memory.clone()


def test_ordinary_memory_that_is_copied_without_blocking_is_read_at_once_and_tells_the_host_nothing(
    machine: SimulatedMachine,
) -> None:
    with machine.detecting_races():
        memory = pinned(machine.module)
        memory.copy_(torch.ones(4, device="npu:0"), non_blocking=True)
        values = torch.ones(4)
        torch.empty(4, device="npu:0").copy_(values, non_blocking=True)
        values.zero_()
        with pytest.raises(SimulatedRaceError):
            memory.clone()
        torch.empty(4, device="npu:0").copy_(values)
        memory.clone()
