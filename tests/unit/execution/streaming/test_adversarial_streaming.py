"""Streaming where nothing helps it: unequal blocks, mixed copies, no wait between steps, and work that runs late.

Other tests copy their inputs blockingly and end each step in `.cpu()`: the host then knows that everything is done, and
an event that is missing does no harm.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from multigpu.multigpu_core.allocation import AllocationPlan, BlockKind, Placement, Strategy
from multigpu.multigpu_core.allocation.inventory.of_module import inventory_of_module
from multigpu.multigpu_core.devices import default_registry
from multigpu.multigpu_core.execution import Distribution, PinnedMemory
from multigpu.multigpu_core.simulation.deferral import Order
from multigpu.testing import SimulatedFaultError, SimulatedMachine

from ..adversarial import ORDERS, PinnedInputs, unfavourable
from .streamed import InOrder

WIDTH = 16
COMPUTE = "npu:0"
GB = 10**9
BUFFER_BYTES = 30_000
"""Of pinned memory: too little for the larger blocks, enough for what they pass through."""
HIDDEN = (64, 16, 200, 32, 96, 24, 160, 48)
IN_TURN = tuple(range(len(HIDDEN)))


class Block(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, hidden), nn.Linear(hidden, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x)))


class Around(nn.Module):
    """A block around another one, which may be called by itself as well."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.before, self.inner = nn.Linear(WIDTH, WIDTH), Block(hidden)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(torch.tanh(self.before(x)))
        return x + y


class Model(InOrder):
    def __init__(self) -> None:
        super().__init__((Around(hidden) if hidden > 100 else Block(hidden) for hidden in HIDDEN), WIDTH)


class Way:
    """Where the blocks are stored in turn, how much memory may be pinned, and who reads whom directly."""

    def __init__(self, devices: Sequence[str], locked_bytes: int = GB, peers: Sequence[tuple[str, str]] = ()) -> None:
        self.devices = devices
        self.locked_bytes = locked_bytes
        self.peers = {frozenset(pair) for pair in peers}

    def split(self, machine: SimulatedMachine, model: Model, share: float) -> Distribution:
        """Every block away, and staging for that share of their bytes."""
        machine.peers.update(self.peers)
        registry = default_registry()
        locked = PinnedMemory(registry, self.locked_bytes)
        distribution = Distribution(model, inventory_of_module(model), registry, locked)
        blocks = [block for block in distribution.inventory.blocks if block.kind is not BlockKind.HEAD]
        where = {block.name: self.devices[index % len(self.devices)] for index, block in enumerate(blocks)}
        placements = tuple(Placement(b, where.get(b.name, COMPUTE)) for b in distribution.inventory.blocks)
        plan = AllocationPlan(COMPUTE, Strategy.INTERLEAVE, placements)
        staging = int(share * sum(block.size_bytes + 1024 for block in blocks))
        distribution.begin(replace(plan, staging_bytes=staging))
        for placement in placements:
            distribution.place(placement.block, placement.device)
        distribution.serve({placement.block.name: placement.device for placement in placements})
        return distribution


WAYS = {
    "pinned": Way(["cpu"]),
    "bounce": Way(["cpu"], BUFFER_BYTES),
    "nothing pinned": Way(["cpu"], 0),
    "two hops": Way(["npu:1"]),
    "peer": Way(["npu:1"], peers=[("npu:0", "npu:1")]),
    "mixed": Way(["cpu", "npu:1", "npu:0", "npu:2"], peers=[("npu:0", "npu:2")]),
    "two donors": Way(["npu:1", "npu:2"]),
}


@pytest.fixture(autouse=True)
def machine(simulated_machine: SimulatedMachine) -> SimulatedMachine:
    simulated_machine.configure([2**31, 2**30, 2**30])
    return simulated_machine


def hosted(step: int) -> Tensor:
    return torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(step))


def write_where_stored(model: Model) -> None:
    """As an extension may do it: on the stream that is current on the device where the weights are."""
    for index in (1, 2, 5):
        for weight in list(model.blocks[index].parameters())[::2]:
            weight.mul_(1.25)


STEPS: tuple[tuple[Sequence[int], Callable[[Model], None] | None], ...] = (
    (IN_TURN, None),
    (IN_TURN, None),
    (IN_TURN, write_where_stored),
    ((7, 2, 2, 5, 0), None),
    (IN_TURN, None),
    ((1, 6, 3), write_where_stored),
    ((4, 4, 0, 7, 2), None),
    (IN_TURN, None),
)
"""The order of the blocks in each step, and what happens before it."""


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("way", WAYS)
def test_steps_without_a_wait_between_them(machine: SimulatedMachine, way: str, order: Order) -> None:
    share = {"late": 0.4, 1: 0.6, 2: 0.9}[order]
    reference, expected, outputs = Model(), [], []
    with unfavourable(machine, order):
        model, inputs = Model(), PinnedInputs(machine, COMPUTE)
        distribution = WAYS[way].split(machine, model, share)
        for step, (blocks, before) in enumerate(STEPS):
            if before is not None:  # nobody writes what a copy may be reading
                for device in machine.devices:
                    machine.module.synchronize(device.name)
            for each in (model, reference):
                each.order = blocks
                if before is not None:
                    before(each)
            if before is not None:
                distribution.weights_changed()
            outputs.append(model(inputs.send(hosted(step))))
            expected.append(reference(hosted(step)))
        distribution.release()
        model.to("cpu")
        scratch = [torch.zeros(200 * WIDTH, device=COMPUTE) for _ in range(20)]  # whatever is free now is used again
        for output, right in zip(outputs, expected, strict=True):
            assert torch.equal(output.cpu(), right)
        del scratch


class Interrupted(BaseException):
    """As ComfyUI's: no Exception, so that torch calls no hook."""


@pytest.mark.parametrize("error", [ValueError, Interrupted])
@pytest.mark.parametrize("way", ["bounce", "mixed"])
def test_an_error_in_any_block(machine: SimulatedMachine, way: str, error: type[BaseException]) -> None:
    """Nobody calls `settle` before the weights are looked at, but the next forward is right."""
    reference = Model()

    def fail(module: nn.Module, args: object) -> None:
        raise error

    with unfavourable(machine, 3):
        model, inputs = Model(), PinnedInputs(machine, COMPUTE)
        distribution = WAYS[way].split(machine, model, 0.5)
        stored = dict(model.named_parameters())
        outputs = [model(inputs.send(hosted(0)))]
        for index in IN_TURN:
            inner = model.blocks[index]
            handle = next(reversed(list(inner.modules()))).register_forward_pre_hook(fail)
            with pytest.raises(error):
                model(inputs.send(hosted(index)))
            handle.remove()
            if error is ValueError:
                assert all(value is stored[name] for name, value in model.named_parameters())
            distribution.settle()
            assert all(value is stored[name] for name, value in model.named_parameters())
            outputs.append(model(inputs.send(hosted(0))))
        distribution.release()
        for output in outputs:
            assert torch.equal(output.cpu(), reference(hosted(0)))


@pytest.mark.parametrize("error", [ValueError, Interrupted])
@pytest.mark.parametrize("order", ORDERS)
def test_a_model_that_is_freed_right_after_an_error(
    machine: SimulatedMachine, order: Order, error: type[BaseException]
) -> None:
    def fail(module: nn.Module, args: object) -> None:
        raise error

    reference = Model()
    with unfavourable(machine, order):
        model, inputs = Model(), PinnedInputs(machine, COMPUTE)
        distribution = WAYS["pinned"].split(machine, model, 0.5)
        output = model(inputs.send(hosted(0)))
        model.blocks[4].register_forward_pre_hook(fail)
        with pytest.raises(error):
            model(inputs.send(hosted(1)))
        del model, distribution
        gc.collect()
        scratch = [torch.zeros(200 * WIDTH, device=COMPUTE) for _ in range(20)]
        assert torch.equal(output.cpu(), reference(hosted(0)))
        del scratch


@pytest.mark.parametrize("order", ORDERS)
def test_weights_that_leave_right_after_a_call_past_their_block(machine: SimulatedMachine, order: Order) -> None:
    reference = Model()
    with unfavourable(machine, order):
        model, inputs = Model(), PinnedInputs(machine, COMPUTE)
        distribution = WAYS["pinned"].split(machine, model, 0.5)
        model(inputs.send(hosted(0)))
        output = model.blocks[3].up(inputs.send(hosted(1)))  # out of turn
        distribution.release()
        model.to("cpu")
        for parameter in model.parameters():  # the weights leave pinned memory
            parameter.data = parameter.data.clone()
        assert torch.equal(output.cpu(), reference.blocks[3].up(hosted(1)))


@pytest.mark.parametrize("operator", ["copy", "aten.tanh*"])
def test_a_device_that_fails_late_leaves_the_model_in_order(machine: SimulatedMachine, operator: str) -> None:
    with unfavourable(machine, "late"):
        model, inputs = Model(), PinnedInputs(machine, COMPUTE)
        distribution = WAYS["pinned"].split(machine, model, 0.5)
        model(inputs.send(hosted(0))).cpu()
        x = inputs.send(hosted(1))
        machine.inject_fault(COMPUTE, operator)
        output = model(x)
        with pytest.raises(SimulatedFaultError):
            output.cpu()
        distribution.settle()
        assert torch.equal(model(inputs.send(hosted(2))).cpu(), Model()(hosted(2)))
        distribution.release()
        assert all(parameter.device.type == "cpu" for parameter in model.blocks.parameters())
