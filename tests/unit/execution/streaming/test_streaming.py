"""Offloaded blocks arrive ahead of their turn, through every kind of memory, never too early and never too late."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor, nn

from multigpu.multigpu_core.devices import AcceleratorBackend, default_registry
from multigpu.multigpu_core.execution import PinnedMemory
from multigpu.multigpu_core.simulation.time.streams import SimulatedStream
from multigpu.testing import SimulatedMachine

from .streamed import BLOCKS, BUFFER_BYTES, COMPUTE, GB, PACKED_BYTES, WIDTH, Model, expected, inputs, split


@pytest.fixture
def machine(simulated_machine: SimulatedMachine) -> Iterator[SimulatedMachine]:
    with simulated_machine.detecting_races():
        yield simulated_machine


WAYS = {
    "pinned host memory": ("cpu", GB),
    "ordinary host memory, through a small buffer": ("cpu", BUFFER_BYTES),
    "ordinary host memory, where nothing can be pinned": ("cpu", 0),
    "another card": ("npu:1", GB),
    "another card, where nothing can be pinned": ("npu:1", 0),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("staged_blocks", [1, 2, 3])
def test_steps_give_the_resident_model_s_numbers(machine: SimulatedMachine, way: str, staged_blocks: int) -> None:
    device, locked_bytes = WAYS[way]
    model = Model()
    split(model, device, locked_bytes, staged_blocks)
    for seed in range(4):
        assert torch.equal(model(inputs(seed)).cpu(), expected(inputs(seed)))


def test_a_device_without_streams_gets_each_block_when_it_is_called(
    machine: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AcceleratorBackend, "streams", None)
    copied, beside_the_host = machine.timeline.copied, []

    def noted(source: Tensor, destination: Tensor, non_blocking: bool, *work: Any) -> None:
        beside_the_host.append(non_blocking)
        copied(source, destination, non_blocking, *work)

    monkeypatch.setattr(machine.timeline, "copied", noted)
    model = Model()
    distribution = split(model, "cpu")
    assert distribution.staging_bytes == 0
    for seed in range(3):
        assert torch.equal(model(inputs(seed)).cpu(), expected(inputs(seed)))
    model.blocks[0].up(inputs())  # past the block
    assert beside_the_host and not any(beside_the_host)


def test_cards_that_read_each_other_need_no_host_memory(machine: SimulatedMachine) -> None:
    machine.peers.add(frozenset(("npu:0", "npu:1")))
    model = Model()
    split(model, "npu:1")
    machine.copies.clear()
    assert torch.equal(model(inputs()).cpu(), expected(inputs()))
    assert machine.copies.bytes_moved("npu:1", COMPUTE) > 0
    assert machine.copies.bytes_moved("npu:1", "cpu") == 0


def test_a_block_is_one_copy_and_the_next_step_s_first_blocks_are_on_their_way(machine: SimulatedMachine) -> None:
    model = Model()
    split(model, "cpu")
    model(inputs())
    x = inputs()
    machine.copies.clear()
    model(x)
    copies = [record for record in machine.copies.records if record.destination == COMPUTE]
    assert len(copies) == BLOCKS // 2 and all(record.dtype == torch.uint8 for record in copies)
    machine.copies.clear()
    model.blocks[0].register_forward_pre_hook(lambda *_: copies.append(machine.copies.bytes_moved()))
    model(x)
    assert copies[-1] == 0, "the first block of a step was there before the step began"


@pytest.mark.parametrize("order", [[7, 6, 5, 4, 3, 2, 1, 0], [0, 2, 2, 1, 4], [1, 3, 5], [0, 0, 0, 6]])
def test_another_order_is_as_right(machine: SimulatedMachine, order: list[int]) -> None:
    model, resident = Model(), Model().to(COMPUTE)
    split(model, "cpu")
    for now in (model.order, order, order, model.order, order):
        model.order = resident.order = now
        assert torch.equal(model(inputs()).cpu(), resident(inputs()).cpu())


def test_weights_that_change_in_place_between_steps_are_seen(machine: SimulatedMachine) -> None:
    model, resident = Model(), Model().to(COMPUTE)
    distribution = split(model, "cpu")
    model(inputs())
    machine.module.synchronize(COMPUTE)  # nobody writes what a copy may be reading
    for each in (model, resident):
        each.blocks[0].up.weight.add_(1)
    assert torch.equal(model(inputs()).cpu(), resident(inputs()).cpu())
    machine.module.synchronize(COMPUTE)
    for each in (model, resident):  # torch does not count changes that go through .data
        each.blocks[0].up.weight.data.add_(1)
    distribution.weights_changed()
    assert torch.equal(model(inputs()).cpu(), resident(inputs()).cpu())


def test_a_weight_that_another_extension_exchanges_is_used(machine: SimulatedMachine) -> None:
    model, resident = Model(), Model().to(COMPUTE)
    split(model, "cpu")
    model(inputs())
    weight = torch.randn(2 * WIDTH, WIDTH)
    model.blocks[2].up.weight = nn.Parameter(weight, requires_grad=False)
    resident.blocks[2].up.weight = nn.Parameter(weight.to(COMPUTE), requires_grad=False)
    for _ in range(2):
        assert torch.equal(model(inputs()).cpu(), resident(inputs()).cpu())
    assert torch.equal(model.blocks[2].up.weight, weight)


def test_each_weight_of_a_block_that_is_packed_no_more_may_change_in_place(machine: SimulatedMachine) -> None:
    model, resident = Model(), Model().to(COMPUTE)
    split(model, "cpu")
    for each in (model, resident):
        up = each.blocks[2].up
        up.weight = nn.Parameter(up.weight.clone(), requires_grad=False)
    model(inputs())
    machine.module.synchronize(COMPUTE)
    for each in (model, resident):
        each.blocks[2].down.bias.add_(1)
    assert torch.equal(model(inputs()).cpu(), resident(inputs()).cpu())


@pytest.mark.parametrize("device", ["cpu", "npu:1"])
def test_a_weight_with_gaps_that_is_put_in_there_comes_over_as_well(machine: SimulatedMachine, device: str) -> None:
    model, resident = Model(), Model().to(COMPUTE)
    split(model, device)
    model(inputs())
    weight = torch.randn(2 * WIDTH, 2 * WIDTH)
    model.blocks[2].up.weight = nn.Parameter(weight.to(device)[:, ::2], requires_grad=False)
    resident.blocks[2].up.weight = nn.Parameter(weight.to(COMPUTE)[:, ::2], requires_grad=False)
    for _ in range(3):
        assert torch.equal(model(inputs()).cpu(), resident(inputs()).cpu())


LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "transposed": lambda: torch.randn(WIDTH, 2 * WIDTH).t(),
    "every other column": lambda: torch.randn(2 * WIDTH, 2 * WIDTH)[:, ::2],
    "columns of a wider one": lambda: torch.randn(2 * WIDTH, 3 * WIDTH)[:, WIDTH : 2 * WIDTH],
    "one row for all": lambda: torch.randn(1, WIDTH).expand(2 * WIDTH, WIDTH),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("way", ["pinned host memory", "ordinary host memory, through a small buffer", "another card"])
def test_a_weight_computes_with_the_strides_that_it_is_stored_with(
    machine: SimulatedMachine, way: str, layout: str
) -> None:
    device, locked_bytes = WAYS[way]
    model = Model()
    split(model, device, locked_bytes)
    weight = LAYOUTS[layout]()
    stored = torch.empty(weight.untyped_storage().nbytes() // 4, device=device)
    stored = stored.as_strided(weight.size(), weight.stride(), weight.storage_offset())
    stored.untyped_storage().copy_(weight.untyped_storage())
    model.blocks[2].up.weight = nn.Parameter(stored, requires_grad=False)
    seen: list[tuple[tuple[int, ...], Tensor]] = []
    model.blocks[2].up.register_forward_pre_hook(
        lambda module, args: seen.append((module.weight.stride(), module.weight.cpu()))
    )
    model(inputs())  # brought ahead
    model.blocks[2].up(inputs())  # brought when it is called
    assert len(seen) == 2
    for stride, values in seen:
        assert stride == weight.stride() and torch.equal(values, weight)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_forward_that_is_broken_off_leaves_the_model_as_it_was(
    machine: SimulatedMachine, error: type[BaseException]
) -> None:
    model = Model()
    distribution = split(model, "cpu")
    stored = dict(model.named_parameters())
    model(inputs())

    def fail(module: nn.Module, args: object) -> None:
        raise error

    handle = model.blocks[4].down.register_forward_pre_hook(fail)
    with pytest.raises(error):
        model(inputs())
    handle.remove()
    distribution.settle()
    assert all(value is stored[name] for name, value in model.named_parameters())
    x = inputs()
    machine.copies.clear()
    output = model(x)
    copies = [record for record in machine.copies.records if record.destination == COMPUTE]
    assert copies and all(record.dtype == torch.uint8 for record in copies), "blocks come from the staging buffer again"
    assert torch.equal(output.cpu(), expected(inputs()))


def test_what_is_released_leaves_no_memory_and_no_hook(machine: SimulatedMachine) -> None:
    model = Model()
    locked = PinnedMemory(default_registry(), GB)
    distribution = split(model, "cpu")
    model(inputs())
    assert distribution.staging_bytes > 0
    distribution.release()
    model.to("cpu")
    gc.collect()
    assert machine.devices[0].live_bytes == 0 and locked.locked_bytes == 0
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_model_that_is_just_let_go_is_freed_when_its_weights_have_arrived(
    machine: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model()
    locked = PinnedMemory(default_registry(), GB)
    distribution = split(model, "cpu", locked=locked)
    model(inputs())  # the first blocks of a next step are on their way
    waited: list[tuple[int, int]] = []
    wait = SimulatedStream.synchronize

    def noted(stream: SimulatedStream) -> None:
        waited.append((locked.locked_bytes, machine.devices[0].live_bytes))
        wait(stream)

    monkeypatch.setattr(SimulatedStream, "synchronize", noted)
    pinned, staging = locked.locked_bytes, distribution.staging_bytes
    del model, distribution
    (held,) = waited
    assert held[0] == pinned and held[1] >= staging > 0
    assert (locked.locked_bytes, machine.devices[0].live_bytes) == (0, 0)


def test_a_driver_that_locks_no_more_memory_costs_speed_and_nothing_else(machine: SimulatedMachine) -> None:
    machine.limit_page_locking(0)
    model = Model()
    with capture_logs() as lines:
        split(model, "cpu")
    assert torch.equal(model(inputs()).cpu(), expected(inputs()))
    (line,) = [line["message"] for line in lines if "pinned" in line["message"]]
    assert "half of the link's speed" in line


def test_weights_for_which_there_is_no_page_locked_memory_left_pass_through_a_little(machine: SimulatedMachine) -> None:
    machine.limit_page_locking(3 * PACKED_BYTES - 100)  # the driver refuses the third block
    locked = PinnedMemory(default_registry(), GB)
    model = Model()
    with capture_logs() as lines:
        split(model, "cpu", locked=locked)
    assert [line["event"] for line in lines].count("page_locking_failed") == 1
    assert locked.locked_bytes > 2 * PACKED_BYTES, "the buffer"
    assert torch.equal(model(inputs()).cpu(), expected(inputs()))
    x = inputs()
    machine.copies.clear()
    model(x)
    sizes = [record.bytes for record in machine.copies.records]
    assert sizes.count(PACKED_BYTES) == 2, "of the first two blocks"
    assert all(size <= PACKED_BYTES // 4 for size in sizes if size != PACKED_BYTES), "of the others, in chunks"


@pytest.mark.parametrize(("limit_bytes", "lines"), [(BUFFER_BYTES, 1), (0, 0), (GB, 0)])
def test_the_user_s_limit_is_told_once_where_it_costs_speed(
    machine: SimulatedMachine, limit_bytes: int, lines: int
) -> None:
    locked = PinnedMemory(default_registry(), limit_bytes)
    with capture_logs() as log:
        for model in (Model(), Model()):
            split(model, "cpu", locked=locked)
    told = [line["message"] for line in log if line["event"] == "page_locked_limit"]
    assert len(told) == lines and all("memory.page_locked_fraction allows" in message for message in told)


@pytest.mark.parametrize("how", ["each block", "each block without breaks", "the whole model"])
def test_compiled_models_stream_as_well(machine: SimulatedMachine, how: str) -> None:
    model = Model()
    split(model, "cpu")
    run = torch.compile(model, backend="eager") if how == "the whole model" else model
    if how.startswith("each"):
        for block in model.blocks:
            block.compile(backend="eager", fullgraph="without" in how)
    for seed in range(3):
        assert torch.equal(run(inputs(seed)).cpu(), expected(inputs(seed)))
