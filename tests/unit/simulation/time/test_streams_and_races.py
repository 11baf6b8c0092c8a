"""Streams and events of simulated devices order work, and work that nothing orders is found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from multigpu.multigpu_core.simulation.time.races import SimulatedRaceError
from multigpu.testing import SimulatedMachine


@pytest.fixture
def machine(simulated_machine: SimulatedMachine) -> Iterator[SimulatedMachine]:
    simulated_machine.detect_races = True
    yield simulated_machine
    simulated_machine.detect_races = False


@pytest.fixture
def npu(machine: SimulatedMachine) -> Any:
    return machine.module


def test_reading_what_another_stream_may_still_be_writing_is_found(npu: Any) -> None:
    weight = torch.zeros(4, device="npu:0")
    npu.synchronize("npu:0")
    side = npu.Stream(device="npu:0")
    with npu.stream(side):
        weight.add_(1)
    with pytest.raises(SimulatedRaceError, match=r"add.*npu:0"):
        weight + 1


def test_writing_what_another_stream_may_still_be_reading_is_found(npu: Any, machine: SimulatedMachine) -> None:
    staging = torch.zeros(4, device="npu:0")
    npu.synchronize("npu:0")
    staging + 1
    side = npu.Stream(device="npu:0")
    with npu.stream(side), pytest.raises(SimulatedRaceError, match="copy"):
        staging.copy_(machine.empty_pinned(16).view(torch.float32), non_blocking=True)


@pytest.mark.parametrize("how", ["event", "stream", "host"])
def test_work_that_waits_is_ordered(npu: Any, how: str) -> None:
    weight = torch.zeros(4, device="npu:0")
    npu.synchronize("npu:0")
    side, main = npu.Stream(device="npu:0"), npu.current_stream("npu:0")
    with npu.stream(side):
        weight.add_(1)
    if how == "event":
        done = npu.Event()
        done.record(side)
        main.wait_event(done)
    elif how == "stream":
        main.wait_stream(side)
    else:
        side.synchronize()
    assert (weight + 1).tolist() == [2.0] * 4


def test_an_event_says_nothing_of_work_that_was_queued_after_it(npu: Any) -> None:
    weight = torch.zeros(4, device="npu:0")
    npu.synchronize("npu:0")
    side = npu.Stream(device="npu:0")
    done = npu.Event()
    done.record(side)
    with npu.stream(side):
        weight.add_(1)
    npu.current_stream("npu:0").wait_event(done)
    with pytest.raises(SimulatedRaceError):
        weight + 1


def test_two_places_in_one_buffer_do_not_disturb_each_other(npu: Any) -> None:
    buffer = torch.zeros(8, device="npu:0")
    npu.synchronize("npu:0")
    with npu.stream(npu.Stream(device="npu:0")):
        buffer[:4].add_(1)
    assert (buffer[4:] + 1).tolist() == [1.0] * 4
    with pytest.raises(SimulatedRaceError):
        buffer[2:6] + 1


def test_two_streams_may_read_the_same_weight(npu: Any) -> None:
    weight = torch.zeros(4, device="npu:0")
    npu.synchronize("npu:0")
    with npu.stream(npu.Stream(device="npu:0")):
        weight + 1
    weight + 2


def test_a_copy_between_cards_keeps_the_order_of_both(npu: Any) -> None:
    there = torch.ones(4, device="npu:1") * 2
    here = there.to("npu:0", non_blocking=True)
    assert (here + 1).tolist() == [3.0] * 4
    there.zero_()


def test_page_locked_memory_has_a_limit_and_comes_back(machine: SimulatedMachine) -> None:
    machine.limit_page_locking(100)
    memory = machine.module.empty_pinned(80)
    with pytest.raises(RuntimeError, match="page-locks"):
        machine.module.empty_pinned(80)
    assert machine.timeline.is_pinned(memory[10:20])
    del memory
    machine.module.empty_pinned(80)


def test_the_current_stream_is_that_of_the_thread_and_the_device(npu: Any) -> None:
    default = npu.current_stream("npu:0")
    side = npu.Stream(device="npu:0")
    with npu.stream(side):
        assert npu.current_stream("npu:0") is side
        assert npu.current_stream("npu:1") is npu.default_stream("npu:1")
    assert npu.current_stream("npu:0") is default is npu.default_stream("npu:0")
