"""Layers are what is streamed: in the order of their calls, each by itself, whatever a block does with them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from multigpu.multigpu_core.allocation import AllocationPlan, BlockKind, Placement, Strategy
from multigpu.multigpu_core.allocation.inventory.of_module import inventory_of_module
from multigpu.multigpu_core.devices import HardwareProfile, LinkSpeed, default_registry
from multigpu.multigpu_core.execution import Distribution, PinnedMemory
from multigpu.multigpu_core.execution.streaming.prefetcher import Prefetcher
from multigpu.multigpu_core.simulation.time.clock import ClockSettings
from multigpu.testing import SimulatedMachine

from ..adversarial import ORDERS, unfavourable
from .streamed import COMPUTE, GB, WIDTH, InOrder

BLOCKS = 6


class Block(nn.Module):
    """Layers that are registered in another order than they are called, and a table that the block reads itself."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.down = nn.Linear(hidden, WIDTH)
        self.gate = nn.Linear(WIDTH, WIDTH)
        self.table = nn.Parameter(torch.randn(WIDTH) / 9)
        self.up = nn.Linear(WIDTH, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.table * torch.sigmoid(self.gate(x))
        return x + self.down(torch.tanh(self.up(x)))


class Twice(Block):
    """Calls a layer twice."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.gate(x)


class Tied(Block):
    """Two layers with one weight."""

    def __init__(self, hidden: int) -> None:
        super().__init__(WIDTH)
        self.up.weight = self.down.weight


class Attention(nn.Module):
    """A layer whose forward reads the weights of another one inside of it."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.up, self.attend = nn.Linear(WIDTH, WIDTH), nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)[None]
        mixed, _ = self.attend(y, y, y, need_weights=False)
        return x + mixed[0]


class Nested(nn.Module):
    """Blocks within parts of a block."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.second, self.first = (
            Block(hidden),
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH)),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return y


KINDS: dict[str, Callable[[int], nn.Module]] = {
    "another order": Block, "called twice": Twice, "tied": Tied, "attention": Attention, "nested": Nested,
}  # fmt: skip


class Model(InOrder):
    def __init__(self, kind: Callable[[int], nn.Module] = Block, blocks: int = BLOCKS) -> None:
        super().__init__(kind(64 + 8 * index) for index in range(blocks))


def split(
    model: nn.Module, places: float = 3, *, resident: str = "never", devices: tuple[str, ...] = ("cpu",)
) -> Distribution:
    """All layers away but those with `resident` in their name; a staging buffer of so many of the largest."""
    registry = default_registry()
    inventory = inventory_of_module(model)
    distribution = Distribution(model, inventory, registry, PinnedMemory(registry, GB))
    placements = tuple(
        Placement(
            layer, COMPUTE if layer.kind is BlockKind.HEAD or resident in layer.name else devices[i % len(devices)]
        )
        for i, layer in enumerate(inventory.by_layers.blocks)
    )
    largest = max(each.block.size_bytes for each in placements)
    plan = AllocationPlan(COMPUTE, Strategy.INTERLEAVE, placements)
    distribution.begin(replace(plan, staging_bytes=int(places * (largest + 1024))))
    for placement in placements:
        distribution.place(placement.block, placement.device)
    distribution.serve({placement.block.name: placement.device for placement in placements})
    return distribution


@pytest.fixture
def machine(simulated_machine: SimulatedMachine) -> Iterator[SimulatedMachine]:
    simulated_machine.configure([2**31, 2**30, 2**30])
    yield simulated_machine
    simulated_machine.clock.stop()


def given(step: int = 1) -> Tensor:
    return torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(step)).to(COMPUTE)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_any_block_give_the_resident_model_s_numbers(
    machine: SimulatedMachine, kind: str, order: str | int
) -> None:
    x = [given(step) for step in range(6)]
    with unfavourable(machine, order):  # type: ignore[arg-type]
        model = Model(KINDS[kind])
        whole = copy.deepcopy(model).to(COMPUTE)
        split(model, 2, resident="gate", devices=("cpu", "npu:1"))
        found = []
        for step, calls in enumerate([range(6), range(6), (0, 3, 5), (5, 5, 1), range(6), range(6)]):
            model.order = whole.order = list(calls)
            found.append((model(x[step]), whole(x[step])))
        assert all(torch.equal(ours.cpu(), wanted.cpu()) for ours, wanted in found)


def test_a_block_is_divided_into_what_is_called(machine: SimulatedMachine) -> None:
    def layers(kind: Callable[[int], nn.Module]) -> list[str]:
        return [layer.name for layer in inventory_of_module(Model(kind)).blocks[1].layers]

    assert layers(Block) == [f"blocks.0{name}" for name in ("", ".down", ".gate", ".up")]
    assert layers(Attention) == ["blocks.0.up", "blocks.0.attend"]
    assert layers(Tied) == []


class Reader(Block):
    """Reads the weight of a layer without calling it."""

    def forward(self, x: Tensor) -> Tensor:
        return x + functional.linear(x, self.gate.weight) + self.down(self.up(x))


def test_a_weight_that_is_read_without_a_call_is_an_error_and_no_stale_memory(machine: SimulatedMachine) -> None:
    model = Model(Reader)
    split(model)
    with pytest.raises(RuntimeError, match="device"):
        model(given())


def moved_bytes(machine: SimulatedMachine, work: Callable[[], object]) -> int:
    """What reaches the compute device meanwhile."""
    before = machine.copies.bytes_moved(destination=COMPUTE)
    work()
    return machine.copies.bytes_moved(destination=COMPUTE) - before


def test_a_first_step_brings_little_twice_and_a_later_load_nothing(machine: SimulatedMachine) -> None:
    model = Model(blocks=24)
    distribution = split(model, 3)
    offloaded = sum(placement.block.size_bytes for placement in distribution.plan.streamed)  # type: ignore[union-attr]
    x = given()
    first = moved_bytes(machine, lambda: model(x))
    ahead = distribution.staging_bytes  # for the next step
    assert first <= 1.1 * offloaded + ahead
    assert moved_bytes(machine, lambda: model(x)) <= 1.01 * offloaded
    devices = distribution.served_devices
    distribution.serve(devices)
    assert moved_bytes(machine, lambda: model(x)) <= 1.01 * offloaded + ahead


def test_a_first_step_takes_hardly_longer(machine: SimulatedMachine) -> None:
    model = Model(blocks=24)
    distribution = split(model, 4, resident="gate")
    offloaded = sum(placement.block.size_bytes for placement in distribution.plan.streamed)  # type: ignore[union-attr]
    x = given()

    def seconds(bytes_per_second: float) -> float:
        begin = machine.clock.now_seconds
        model(x)
        machine.module.current_stream(COMPUTE).synchronize()
        return machine.clock.now_seconds - begin

    whole = copy.deepcopy(model).to(COMPUTE)
    machine.clock.start(ClockSettings(HardwareProfile({}, {COMPUTE: {"float32": 1e9}})))
    whole(x)
    machine.module.synchronize(COMPUTE)
    resident = machine.clock.now_seconds
    link = LinkSpeed(offloaded / resident, offloaded / resident)
    machine.clock.start(ClockSettings(HardwareProfile({("cpu", COMPUTE): link}, {COMPUTE: {"float32": 1e9}})))
    assert seconds(0) <= 1.3 * resident


def test_an_exchanged_weight_remakes_the_turns_of_its_layer_alone(
    machine: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model()
    whole = copy.deepcopy(model).to(COMPUTE)
    split(model)
    x = given()
    model(x), model(x)
    arranged: list[object] = []
    arrange = Prefetcher.arrange
    monkeypatch.setattr(Prefetcher, "arrange", lambda self, turns: (arranged.append(turns), arrange(self, turns)))
    for path in ("blocks.0.gate", "blocks.4.up", "blocks.5.down"):  # copied ahead already, and not yet
        for each, device in ((model, "cpu"), (whole, COMPUTE)):
            layer = each.get_submodule(path)
            layer.weight = nn.Parameter(layer.weight.detach().cpu().mul(2).to(device), requires_grad=False)
        assert torch.equal(model(x).cpu(), whole(x).cpu())
        assert torch.equal(model(x).cpu(), whole(x).cpu())
    assert arranged == []
    for each, device in ((model, "cpu"), (whole, COMPUTE)):  # of another size: it does not fit in its place
        each.blocks[3].gate.weight = nn.Parameter(each.blocks[3].gate.weight.double().to(device), requires_grad=False)
        each.blocks[3].gate.bias = nn.Parameter(each.blocks[3].gate.bias.double().to(device), requires_grad=False)
        each.blocks[3].gate.register_forward_pre_hook(lambda module, args: (args[0].double(),))
        each.blocks[3].gate.register_forward_hook(lambda module, args, output: output.float())
    assert torch.equal(model(x).cpu(), whole(x).cpu())
    assert len(arranged) == 1


@pytest.mark.parametrize("how", ["without breaks", "the whole model"])
def test_compiled_blocks_are_streamed_as_a_whole(
    machine: SimulatedMachine, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(Model(blocks=3))
    whole = copy.deepcopy(model).to(COMPUTE)
    split(model, resident="gate")
    x = given()
    model(x)
    turns: list[list[int]] = []
    arrange = Prefetcher.arrange
    monkeypatch.setattr(
        Prefetcher, "arrange", lambda self, of: (turns.append([len(m.slots) for m, _ in of]), arrange(self, of))
    )
    if how == "the whole model":
        model[0] = torch.compile(model[0], backend="eager")  # as ComfyUI puts a compiled part in for a while
    for block in model[0].blocks if how == "without breaks" else ():
        block.compile(backend="eager", fullgraph=True)
    for _ in range(3):
        assert torch.equal(model(x).cpu(), whole(x).cpu())
    assert turns[0] == [4, 4, 4], "weights and biases of two layers at once"
    torch._dynamo.reset()
