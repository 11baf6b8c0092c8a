"""Copies and the work around them are ordered by events alone: here the host waits for nothing between two steps.

Blocks have unequal sizes, sources are mixed, and inputs are made on the device, so that no wait of the host hides what
an event should have ordered. Work that nothing orders raises `SimulatedRaceError`.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor, nn

from multigpu.multigpu_core.devices import AcceleratorBackend, HardwareProfile, LinkSpeed, default_registry
from multigpu.multigpu_core.execution import Distribution, PinnedMemory
from multigpu.multigpu_core.execution.streaming.copy_channels import BounceChannel, ChunkRing
from multigpu.multigpu_core.simulation.operators import OperatorRunner
from multigpu.multigpu_core.simulation.tensors import host_view
from multigpu.multigpu_core.simulation.time.clock import ClockSettings
from multigpu.multigpu_core.simulation.time.streams import SimulatedEvent, SimulatedStream
from multigpu.testing import SimulatedMachine

from ..relay.relayed import Block as RelayedBlock
from ..relay.relayed import Model as RelayedModel
from ..relay.relayed import in_turn, relayed, resident
from .streamed import BLOCKS, COMPUTE, GB, UNEQUAL, WIDTH, BuffersOnly, Model, spread

IN_ORDER = list(range(BLOCKS))
WAYS = {
    "pinned": ["cpu"],
    "small buffer": ["cpu"],
    "two hops": ["npu:1"],
    "peer": ["npu:1"],
    "mixed": ["cpu", "npu:1"],
    "two cards": ["npu:1", "npu:2"],
}


@pytest.fixture
def machine(simulated_machine: SimulatedMachine) -> Iterator[SimulatedMachine]:
    simulated_machine.configure([2**31, 2**30, 2**30])
    simulated_machine.detect_races = True
    yield simulated_machine
    simulated_machine.detect_races = False
    simulated_machine.clock.stop()


class Steps:
    """Steps of a split model whose results are compared with the resident model's when all have been issued."""

    def __init__(self, machine: SimulatedMachine, way: str, staging: float) -> None:
        if way == "peer":
            machine.peers.add(frozenset(("npu:0", "npu:1")))
        self.base = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1)).to(COMPUTE)
        self.resident = Model(UNEQUAL).to(COMPUTE)
        self.model = Model(UNEQUAL)
        kind = BuffersOnly if way == "small buffer" else PinnedMemory
        self.distribution = spread(self.model, WAYS[way], staging, kind)
        self.results: list[tuple[Tensor, Tensor]] = []

    def run(self, order: list[int] = IN_ORDER) -> None:
        x = self.base * (len(self.results) + 1)
        self.model.order = self.resident.order = order
        self.results.append((self.model(x), self.resident(x)))

    def write(self, *blocks: int) -> None:
        """Change weights in place, where they are stored and without a word to the distribution."""
        for block in blocks:
            for model in (self.model, self.resident):
                model.get_submodule(f"blocks.{block}.up").weight.mul_(1.5)

    def wait_for_copies(self) -> None:
        streamer = self.distribution._state.streamer
        assert streamer is not None and streamer._prefetcher is not None
        streamer._prefetcher.wait()

    def check(self) -> None:
        for step, (found, wanted) in enumerate(self.results):
            assert torch.equal(found.cpu(), wanted.cpu()), f"step {step}"


@pytest.mark.parametrize(("way", "staging"), list(zip(WAYS, [0.35, 0.35, 0.5, 0.6, 0.35, 0.6], strict=True)))
def test_steps_in_changing_orders_give_the_resident_model_s_numbers(
    machine: SimulatedMachine, way: str, staging: float
) -> None:
    steps = Steps(machine, way, staging)
    for order in [IN_ORDER, IN_ORDER, [7, 2, 2, 5, 0], [1, 6, 3], *[[1, 3, 5, 7]] * 4, IN_ORDER]:
        steps.run(order)
    steps.distribution.save_staging()
    steps.run()
    steps.check()


@pytest.mark.parametrize("way", ["pinned", "two hops", "peer", "mixed"])
def test_weights_that_are_written_in_place_arrive_as_they_were_written(machine: SimulatedMachine, way: str) -> None:
    steps = Steps(machine, way, 0.4)
    steps.run()
    steps.run()
    for blocks in ([4, 7], [0, 1, 2], [0, 5]):  # copied later, copied ahead already, both
        steps.wait_for_copies()  # copies ahead read what is written now, and are not used: no harm
        steps.write(*blocks)
        steps.run()
        steps.run()
    steps.check()


def test_a_block_that_is_written_and_called_out_of_turn_arrives_as_it_was_written(machine: SimulatedMachine) -> None:
    steps = Steps(machine, "mixed", 0.4)
    steps.run()
    steps.wait_for_copies()
    steps.write(3, 6)
    steps.run([6, 3, 6])
    steps.run()
    steps.check()


def test_weights_that_come_another_way_from_now_on_wait_for_the_copies_under_way(machine: SimulatedMachine) -> None:
    """The copies ahead are on a stream that the new ones do not know, and write into the same staging memory."""
    with machine.deferred("late"):
        steps = Steps(machine, "peer", 0.6)
        steps.run()
        for model, device in ((steps.model, "npu:2"), (steps.resident, COMPUTE)):
            for block in model.blocks:
                for name, weight in block.named_parameters():
                    layer, _, attribute = name.rpartition(".")
                    moved = nn.Parameter(weight.detach().cpu().mul(2).to(device), requires_grad=False)
                    setattr(block.get_submodule(layer), attribute, moved)
        steps.run()
        steps.run()
        steps.check()


@pytest.mark.parametrize("end", ["unloaded", "moved", "let go"])
@pytest.mark.parametrize("call", ["in turn", "past its region", "inside of another"])
def test_pinned_memory_outlives_every_copy_from_it(machine: SimulatedMachine, call: str, end: str) -> None:
    steps = Steps(machine, "pinned", 0.5)
    steps.run()
    if call == "past its region":
        steps.model.blocks[5].down(steps.model.blocks[5].up(steps.base))
    elif call == "inside of another":
        inner = steps.model.blocks[6]
        handle = steps.model.blocks[1].up.register_forward_pre_hook(lambda module, args: (inner(*args),))
        steps.model(steps.base)
        handle.remove()
        del inner
    if end == "unloaded":
        steps.distribution.release()
    elif end == "moved":
        steps.distribution.demote(GB, "npu:1", "cpu")
    else:
        del steps.model, steps.distribution
    gc.collect()
    machine.timeline.check_unpinned()
    assert end == "moved" or machine.timeline.locked_bytes == 0


class Pending:
    """An event that is reached only when somebody waits for it."""

    is_pending = False

    def record(self, stream: Any) -> None:
        self.is_pending = True

    def synchronize(self) -> None:
        self.is_pending = False

    def query(self) -> bool:
        return not self.is_pending


def test_a_chunk_of_the_small_buffer_is_filled_only_when_its_last_copy_is_done(machine: SimulatedMachine) -> None:
    module = machine.module
    chunks = [torch.empty(4, dtype=torch.uint8) for _ in range(2)]
    monkey = pytest.MonkeyPatch()
    monkey.setattr(module, "Event", Pending)
    ring = ChunkRing(module, chunks)
    monkey.undo()
    channel = BounceChannel(module, module.Stream(COMPUTE), ring)
    staging = torch.empty(4, dtype=torch.uint8, device=COMPUTE)
    channel.wait_for_writers()
    was_ready = []
    for number in range(4):
        was_ready.append(channel.is_ready())

        def stored(event: Any = ring._chunks[number % 2][1]) -> Iterator[tuple[int, Tensor]]:
            assert not event.is_pending
            yield 0, torch.zeros(4, dtype=torch.uint8)

        channel.copy(staging, stored())
    assert was_ready == [True, True, False, False]


def test_the_host_waits_for_the_small_buffer_only_for_a_block_that_is_due(
    machine: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(machine, "small buffer", 0.6)
    slow = HardwareProfile({("cpu", "npu:0"): LinkSpeed(1e6, 1e6)}, {})
    steps.run()
    machine.clock.start(ClockSettings(slow))
    waits: list[bool] = []
    is_due = False
    synchronize = SimulatedEvent.synchronize

    def noted(event: SimulatedEvent) -> None:
        waits.append(not event.query() and not is_due)
        synchronize(event)

    def entering(module: nn.Module, args: Any) -> None:
        nonlocal is_due
        is_due = True

    def entered(module: nn.Module, args: Any) -> None:
        nonlocal is_due
        is_due = False

    for block in steps.model.blocks:
        block.register_forward_pre_hook(entering, prepend=True)
        block.register_forward_pre_hook(entered)
    monkeypatch.setattr(SimulatedEvent, "synchronize", noted)
    steps.run()
    steps.run()
    assert waits and not any(waits)
    machine.clock.stop()
    steps.check()


def test_what_is_served_in_inference_mode_computes_outside_of_it_too(machine: SimulatedMachine) -> None:
    with torch.inference_mode():
        steps = Steps(machine, "pinned", 0.5)
        steps.run()
    x = steps.base.clone().requires_grad_()
    for block, whole in zip(steps.model.blocks, steps.resident.blocks, strict=True):
        y = block(x)
        assert torch.equal(y.detach().cpu(), whole(x.detach()).cpu())


@pytest.mark.parametrize("called", ["block", "layer"])
def test_an_error_leaves_the_stored_weights_in_place_at_once(machine: SimulatedMachine, called: str) -> None:
    steps = Steps(machine, "pinned", 0.5)
    stored = dict(steps.model.named_parameters())
    steps.run()

    def fail(module: nn.Module, args: Any) -> None:
        raise ValueError

    failing = steps.model.blocks[3].down if called == "block" else steps.model.blocks[3].up
    handle = failing.register_forward_pre_hook(fail)
    with pytest.raises(ValueError):
        if called == "block":
            steps.model(steps.base)
        else:
            failing(steps.base)
    handle.remove()
    assert all(value is stored[name] for name, value in steps.model.named_parameters())
    assert machine.module.current_device() == 0
    steps.run()
    steps.run()
    steps.check()


def test_a_move_that_fails_in_the_middle_is_put_back(
    machine: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(machine, "two cards", 0.5)
    distribution = steps.distribution
    steps.run()
    before = {block.name: distribution.device_of(block) for block in distribution.inventory.blocks}
    place, moved = Distribution.place, []

    def failing(self: Distribution, block: Any, device: str) -> None:
        if device == "cpu":
            moved.append(block.name)
            if len(moved) == 3:
                raise MemoryError
        place(self, block, device)

    monkeypatch.setattr(Distribution, "place", failing)
    with pytest.raises(MemoryError):
        distribution.demote(GB, "cpu", "npu:1")
    assert len(moved) == 3
    assert {block.name: distribution.device_of(block) for block in distribution.inventory.blocks} == before
    assert distribution.is_served
    steps.run()
    steps.run()
    steps.check()


def test_a_model_that_is_let_go_while_a_graph_is_captured_is_freed_afterwards(
    machine: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_capturing = False
    monkeypatch.setattr(AcceleratorBackend, "is_capturing", lambda *_: is_capturing)
    steps = Steps(machine, "pinned", 0.5)
    steps.run()
    registry, waits = steps.distribution._registry, []
    synchronize = SimulatedStream.synchronize

    def noted(stream: SimulatedStream) -> None:
        waits.append(stream.name)
        synchronize(stream)

    monkeypatch.setattr(SimulatedStream, "synchronize", noted)
    is_capturing = True
    del steps.model, steps.distribution
    gc.collect()
    assert not waits and machine.timeline.locked_bytes > 0
    is_capturing = False
    registry.after_capture(COMPUTE).catch_up()
    gc.collect()
    machine.timeline.check_unpinned()
    assert waits and machine.timeline.locked_bytes == 0


def test_loads_share_a_few_streams(machine: SimulatedMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.device] = []
    new_stream = machine.timeline.new_stream

    def noted(device: torch.device, name: str = "") -> SimulatedStream:
        made.append(device)
        return new_stream(device, name)

    steps = Steps(machine, "two cards", 0.5)
    steps.run()  # now the default streams are there, too
    monkeypatch.setattr(machine.timeline, "new_stream", noted)
    distribution = steps.distribution
    assert distribution.plan is not None
    for _ in range(3):
        distribution.serve({block.name: distribution.device_of(block) for block in distribution.inventory.blocks})
        steps.run()
    assert not made
    registry = default_registry()
    streams = [registry.shared_stream(COMPUTE, f"use {number}") for number in range(9)]
    assert len(set(map(id, streams))) == len(made) == 4
    restricted = registry.restricted(["cpu", COMPUTE], "in a test")
    assert [restricted.shared_stream(COMPUTE, f"use {number}") for number in range(9)] == streams
    steps.check()


def test_peer_access_that_brings_garbage_is_not_used(
    machine: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = OperatorRunner._copy

    def garbling(self: OperatorRunner, destination: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        copy(self, destination, source, non_blocking)
        if {str(source.device), str(destination.device)} == {"npu:0", "npu:1"}:
            host_view(destination).view(-1)[-1:].zero_()
        return destination

    with monkeypatch.context() as garbled, capture_logs() as lines:
        garbled.setattr(OperatorRunner, "_copy", garbling)
        steps = Steps(machine, "peer", 0.5)
        registry = steps.distribution._registry
        assert registry.has_peer_access(COMPUTE, "npu:1") and not registry.reads_directly(COMPUTE, "npu:1")
        machine.copies.clear()
        steps.run()
        steps.run()
        assert machine.copies.bytes_moved("npu:1", COMPUTE) == 0 < machine.copies.bytes_moved("npu:1", "cpu")
    assert [line["event"] for line in lines].count("peer_access_broken") == 1
    steps.check()


def test_no_copy_between_cards_runs_on_a_default_stream(
    machine: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA lets such a copy wait for all work of both cards, and all later work wait for it."""
    blocks = [RelayedBlock() for _ in range(6)]
    model = RelayedModel(in_turn, blocks)
    whole = resident(model)
    relayed(model, ["npu:0", "npu:1", "npu:1", "cpu", "npu:2", "npu:1"])
    steps = Steps(machine, "two hops", 0.5)
    steps.run()
    copied, on_default, between = machine.timeline.copied, [], 0

    def noted(source: Tensor, destination: Tensor, *args: Any) -> Any:
        nonlocal between
        if source.device != destination.device and "cpu" not in (source.device.type, destination.device.type):
            between += 1
            stream = machine.timeline.current_stream(source.device)
            on_default.append(stream is machine.timeline.default_stream(source.device))
        return copied(source, destination, *args)

    monkeypatch.setattr(machine.timeline, "copied", noted)
    x = torch.randn(3, 8).to(COMPUTE)
    y = model(x)
    steps.run([3, 2])
    steps.model.blocks[1].up(steps.base)
    assert between > 5 and not any(on_default)
    monkeypatch.undo()
    assert torch.equal(y.cpu(), whole(x).cpu())
    steps.check()
