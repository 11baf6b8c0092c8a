"""Virtual time: laws that can be worked out by hand, and the same figures every time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from multigpu.multigpu_core.devices import HardwareProfile, LinkSpeed
from multigpu.multigpu_core.simulation.time.clock import ClockSettings
from multigpu.testing import SimulatedMachine

SIDE = 64
MATMUL_FLOPS = 2 * SIDE**3
MATMUL_SECONDS = 0.1
MATRIX_BYTES = 4 * SIDE**2
COPY_SECONDS = 0.08
RATE = MATMUL_FLOPS / MATMUL_SECONDS
LINK = LinkSpeed(MATRIX_BYTES / COPY_SECONDS, MATRIX_BYTES / COPY_SECONDS / 2)
PROFILE = HardwareProfile(
    links={("cpu", "npu:0"): LINK, ("npu:0", "cpu"): LINK, ("cpu", "npu:1"): LINK, ("npu:1", "cpu"): LINK},
    flops_per_second={"npu:0": {"float32": RATE}, "npu:1": {"float32": RATE / 2}},
)


@pytest.fixture
def npu(simulated_machine: SimulatedMachine) -> Iterator[Any]:
    simulated_machine.clock.start(ClockSettings(PROFILE))
    yield simulated_machine.module
    simulated_machine.clock.stop()


def matrix(device: str) -> torch.Tensor:
    return torch.ones(SIDE, SIDE).to(device)


def seconds(npu: Any, *devices: str) -> float:
    for device in devices:
        npu.synchronize(device)
    return float(npu.simulated_machine.clock.now_seconds)


def locked(npu: Any) -> torch.Tensor:
    return npu.empty_pinned(MATRIX_BYTES).view(torch.float32).view(SIDE, SIDE)  # type: ignore[no-any-return]


def restart(npu: Any) -> None:
    npu.simulated_machine.timeline.reset()
    npu.simulated_machine.clock.start(npu.simulated_machine.clock.settings)


def test_matrix_products_take_their_operations_over_the_device_s_rate(npu: Any) -> None:
    a, b = matrix("npu:0"), matrix("npu:1")
    restart(npu)
    a @ a
    assert seconds(npu, "npu:0") == pytest.approx(MATMUL_SECONDS)
    restart(npu)
    b @ b
    assert seconds(npu, "npu:1") == pytest.approx(2 * MATMUL_SECONDS)


def test_a_copy_beside_compute_costs_nothing(npu: Any) -> None:
    a, host, there = matrix("npu:0"), locked(npu), torch.empty(SIDE, SIDE, device="npu:0")
    restart(npu)
    with npu.stream(npu.Stream(device="npu:0")):
        there.copy_(host, non_blocking=True)
    a @ a
    assert seconds(npu, "npu:0") == pytest.approx(MATMUL_SECONDS)


def test_a_copy_on_the_same_stream_is_waited_for(npu: Any) -> None:
    a, host, there = matrix("npu:0"), locked(npu), torch.empty(SIDE, SIDE, device="npu:0")
    restart(npu)
    there.copy_(host, non_blocking=True)
    a @ there
    assert seconds(npu, "npu:0") == pytest.approx(COPY_SECONDS + MATMUL_SECONDS)


def test_ordinary_memory_is_slower_and_blocks_the_host(npu: Any) -> None:
    a = matrix("npu:0")
    restart(npu)
    there = torch.empty(SIDE, SIDE, device="npu:0")
    with npu.stream(npu.Stream(device="npu:0")):
        there.copy_(torch.ones(SIDE, SIDE), non_blocking=True)
    assert npu.simulated_machine.clock.now_seconds == pytest.approx(2 * COPY_SECONDS)
    a @ a
    assert seconds(npu, "npu:0") == pytest.approx(2 * COPY_SECONDS + MATMUL_SECONDS)


def test_two_directions_of_a_link_run_beside_each_other_and_two_copies_one_way_do_not(npu: Any) -> None:
    host, back = locked(npu), locked(npu)
    first, second, there = (torch.empty(SIDE, SIDE, device="npu:0") for _ in range(3))
    restart(npu)
    for target in (first, second):
        with npu.stream(npu.Stream(device="npu:0")):
            target.copy_(host, non_blocking=True)
    with npu.stream(npu.Stream(device="npu:0")) as _:
        back.copy_(there, non_blocking=True)
    ends = sorted(span.end_seconds for span in npu.simulated_machine.clock.trace)
    assert ends == pytest.approx([COPY_SECONDS, COPY_SECONDS, 2 * COPY_SECONDS])


def engines_of_a_copy_from_each_side(npu: Any, *, shared: bool) -> tuple[set[str], float]:
    """A copy from the host and one from another card to the same card, each on a stream of its own."""
    host, there = locked(npu), matrix("npu:1")
    first, second = (torch.empty(SIDE, SIDE, device="npu:0") for _ in range(2))
    npu.simulated_machine.timeline.reset()
    links = {**PROFILE.links, ("npu:1", "npu:0"): LINK}
    npu.simulated_machine.clock.start(ClockSettings(HardwareProfile(links, {}), shared_copy_engines=shared))
    with npu.stream(npu.Stream(device="npu:0")):
        first.copy_(host, non_blocking=True)
    second.copy_(there, non_blocking=True)
    npu.synchronize("npu:0")
    return {span.engine for span in npu.simulated_machine.clock.trace}, npu.simulated_machine.clock.now_seconds


def test_a_card_can_have_one_copy_engine_for_each_direction(npu: Any) -> None:
    engines, took = engines_of_a_copy_from_each_side(npu, shared=True)
    assert engines == {"npu:0 in", "npu:1 out"} and took == pytest.approx(2 * COPY_SECONDS)
    engines, took = engines_of_a_copy_from_each_side(npu, shared=False)
    assert engines == {"cpu > npu:0", "npu:1 > npu:0"} and took == pytest.approx(COPY_SECONDS)


def test_the_host_takes_its_time_to_copy_memory_itself(npu: Any) -> None:
    memory, values = locked(npu), torch.ones(SIDE, SIDE)
    settings = ClockSettings(PROFILE, host_bytes_per_second=MATRIX_BYTES / 0.25)
    npu.simulated_machine.clock.start(settings)
    with npu.simulated_machine.detecting_races():
        memory.copy_(values)
        matrix("npu:0")
    assert npu.simulated_machine.clock.now_seconds == pytest.approx(0.25 + 2 * COPY_SECONDS)


def test_work_that_the_host_issues_late_starts_late(npu: Any) -> None:
    a, memory, values = matrix("npu:0"), locked(npu), torch.ones(SIDE, SIDE)
    npu.simulated_machine.timeline.reset()
    npu.simulated_machine.clock.start(ClockSettings(PROFILE, host_bytes_per_second=MATRIX_BYTES / 0.25))
    with npu.simulated_machine.detecting_races():
        memory.copy_(values)
        a @ a
    (span,) = npu.simulated_machine.clock.trace
    assert span.start_seconds == pytest.approx(0.25)


def test_a_device_is_synchronized_when_all_of_its_streams_are_done(npu: Any) -> None:
    a = matrix("npu:0")
    restart(npu)
    with npu.stream(npu.Stream(device="npu:0")):
        a @ a
    npu.current_stream("npu:0").synchronize()
    assert npu.simulated_machine.clock.now_seconds == 0, "the default stream does not wait for others"
    npu.synchronize("npu:1")
    assert npu.simulated_machine.clock.now_seconds == 0
    npu.synchronize("npu:0")
    assert npu.simulated_machine.clock.now_seconds == pytest.approx(MATMUL_SECONDS)


def test_cards_without_peer_access_cross_both_links(npu: Any) -> None:
    there = matrix("npu:1")
    restart(npu)
    there.to("npu:0")
    spans = npu.simulated_machine.clock.trace
    assert {span.engine for span in spans} == {"npu:1 > cpu", "cpu > npu:0"}
    assert seconds(npu, "npu:0") == pytest.approx(COPY_SECONDS)


def test_a_gap_that_a_waiting_stream_leaves_is_used_by_another_that_was_issued_later(npu: Any) -> None:
    a, b = matrix("npu:0"), matrix("npu:1")
    first, second = npu.Stream(device="npu:0"), npu.Stream(device="npu:0")
    restart(npu)
    with npu.stream(first):
        a @ a
        there = (b @ b) is not None
        first.wait_stream(npu.current_stream("npu:1"))
        a @ a
    with npu.stream(second):
        a @ a
    assert there
    assert sorted(s.end_seconds for s in npu.simulated_machine.clock.trace if s.engine == "npu:0") == pytest.approx(
        [0.1, 0.2, 0.3]
    )


def test_what_the_host_takes_to_issue_work_can_be_the_bound(npu: Any) -> None:
    a = matrix("npu:0")
    restart(npu)
    npu.simulated_machine.clock.start(ClockSettings(PROFILE, launch_seconds=0.5))
    for _ in range(4):
        a @ a
    assert seconds(npu, "npu:0") == pytest.approx(4 * 0.5 + MATMUL_SECONDS)


def test_events_tell_virtual_milliseconds(npu: Any) -> None:
    a = matrix("npu:0")
    restart(npu)
    begin, end = npu.Event(enable_timing=True), npu.Event(enable_timing=True)
    begin.record(npu.current_stream("npu:0"))
    a @ a
    end.record(npu.current_stream("npu:0"))
    assert begin.elapsed_time(end) == pytest.approx(1000 * MATMUL_SECONDS)


def test_the_trace_says_what_was_done_for_what(npu: Any) -> None:
    a = matrix("npu:0")
    restart(npu)
    with npu.simulated_machine.clock.label("block 3"):
        a @ a
    (span,) = npu.simulated_machine.clock.trace
    assert (span.label, span.engine, span.start_seconds, span.seconds) == ("block 3", "npu:0", 0, MATMUL_SECONDS)


def test_without_settings_no_time_passes(simulated_machine: SimulatedMachine) -> None:
    a = matrix("npu:0")
    a @ a
    assert simulated_machine.clock.now_seconds == 0 and not simulated_machine.clock.trace


def in_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_a_thread_issues_work_while_another_waits_for_the_device(npu: Any) -> None:
    a = matrix("npu:0")
    restart(npu)
    npu.simulated_machine.clock.start(ClockSettings(PROFILE, launch_seconds=0.01))
    a @ a
    seen: list[float] = []

    def issue() -> None:
        a @ a
        seen.append(npu.simulated_machine.clock.now_seconds)

    npu.current_stream("npu:0").synchronize()
    in_a_thread(issue)
    assert npu.simulated_machine.clock.now_seconds == pytest.approx(0.01 + MATMUL_SECONDS)
    assert seen == pytest.approx([0.02]), "it did not wait for the device, only for the interpreter"


def test_threads_issue_one_after_the_other(npu: Any) -> None:
    a, b = matrix("npu:0"), matrix("npu:1")
    restart(npu)
    npu.simulated_machine.clock.start(ClockSettings(PROFILE, launch_seconds=0.5))
    for _ in range(2):
        a @ a
        in_a_thread(lambda: b @ b)
    starts = [span.start_seconds for span in npu.simulated_machine.clock.trace]
    assert starts == pytest.approx([0.5, 1.0, 1.5, 2.0])
