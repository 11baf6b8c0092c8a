"""The relay where nothing helps it: late work, non-blocking inputs, kernels that launch on the current device, errors.

As for streaming, no step ends in a wait of the host, so an event that is missing gives a wrong number.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from multigpu.multigpu_core.simulation.deferral import Order
from multigpu.testing import SimulatedMachine

from ..adversarial import ORDERS, PinnedInputs, unfavourable, unfavourable_on_two_threads
from .relayed import COMPUTE, WIDTH, Block, Glue, InPlace, Model, in_turn, relayed

PLACES = {
    "one donor": ("npu:0", "npu:1", "npu:1", "npu:0", "npu:1", "npu:1"),
    "two donors": ("npu:1", "npu:2", "npu:1", "npu:1", "npu:2", "npu:0"),
    "streamed as well": ("npu:0", "npu:1", "cpu", "npu:2", "cpu", "npu:1"),
}


@pytest.fixture(autouse=True)
def machine(simulated_machine: SimulatedMachine) -> SimulatedMachine:
    simulated_machine.configure([2**30] * 3)
    return simulated_machine


class Wide(nn.Module):
    """A block of another size than the others, with an argument that is the same for all blocks."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, hidden), nn.Linear(hidden, WIDTH)

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        x = x + self.down(torch.tanh(self.up(x)))
        return x * options["scale"] if "scale" in options else x


def with_constants(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    scale = torch.cos(torch.arange(WIDTH, device=x.device) * 0.1)
    for block in blocks:
        x = block(x, scale=scale)
        x[:, :2] += scale[:2]
    return x


def skipping_and_back(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    kept = torch.zeros_like(x)
    for index in (0, 1, 3, 3, 5, 2):
        x = blocks[index](x)
        kept += x
    return kept


def blocks() -> list[nn.Module]:
    torch.manual_seed(0)
    return [Block(), Wide(40), InPlace(), Wide(8), Wide(24), Block()]


def wide_blocks() -> list[nn.Module]:
    torch.manual_seed(0)
    return [Wide(8 * (index + 1)) for index in range(6)]


def hosted(step: int) -> Tensor:
    return torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(step))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("glue", [in_turn, with_constants, skipping_and_back])
@pytest.mark.parametrize("places", PLACES)
def test_steps_without_a_wait_between_them(machine: SimulatedMachine, places: str, glue: Glue, order: Order) -> None:
    with unfavourable(machine, order):
        torch.manual_seed(0)
        model, inputs = Model(glue, blocks()), PinnedInputs(machine, COMPUTE)
        reference = copy.deepcopy(model)
        distribution = relayed(model, PLACES[places])
        outputs = [model(inputs.send(hosted(step))) for step in range(4)]
        distribution.release()
        model.to("cpu")
        scratch = [torch.zeros(64, device=device.name) for device in machine.devices for _ in range(10)]
        for step, output in enumerate(outputs):
            assert torch.equal(output.cpu(), reference(hosted(step)))
        del scratch


def test_kernels_that_launch_on_the_current_device_find_the_donor_s(machine: SimulatedMachine) -> None:
    machine.raw_pointer_operators.update(("aten::linear", "aten::addmm"))
    with unfavourable(machine, "late"):
        model, inputs = Model(with_constants, blocks()), PinnedInputs(machine, COMPUTE)
        reference = copy.deepcopy(model)
        relayed(model, PLACES["two donors"])
        for step in range(3):
            assert torch.equal(model(inputs.send(hosted(step))).cpu(), reference(hosted(step)))
            assert machine.module.current_device() == 0


@pytest.mark.parametrize("order", ORDERS)
def test_a_donor_s_weights_that_are_written_between_steps(machine: SimulatedMachine, order: Order) -> None:
    with unfavourable(machine, order):
        model, inputs = Model(in_turn, blocks()), PinnedInputs(machine, COMPUTE)
        reference = copy.deepcopy(model)
        distribution = relayed(model, PLACES["one donor"])
        outputs, expected = [], []
        for step in range(4):
            for each in (model, reference):  # by what is current on the donor, while it may still compute
                for parameter in each.blocks[1].parameters():
                    parameter.mul_(1.25)
            distribution.weights_changed()
            outputs.append(model(inputs.send(hosted(step))))
            expected.append(reference(hosted(step)))
        for output, right in zip(outputs, expected, strict=True):
            assert torch.equal(output.cpu(), right)


class Interrupted(BaseException):
    """As ComfyUI's: no Exception, so that torch calls no hook."""


@pytest.mark.parametrize("error", [ValueError, Interrupted])
def test_an_error_in_any_block(machine: SimulatedMachine, error: type[BaseException]) -> None:
    def fail(module: nn.Module, args: object) -> None:
        raise error

    with unfavourable(machine, 3):
        model, inputs = (
            Model(with_constants, [Wide(8 * (index + 1)) for index in range(6)]),
            PinnedInputs(machine, COMPUTE),
        )
        reference = copy.deepcopy(model)
        relayed(model, PLACES["two donors"])
        outputs = [model(inputs.send(hosted(0)))]
        for block in model.blocks:
            handle = block.down.register_forward_pre_hook(fail)
            with pytest.raises(error):
                model(inputs.send(hosted(1)))
            handle.remove()
            outputs.append(model(inputs.send(hosted(0))))  # nobody has called settle
            assert machine.module.current_device() == 0
        right = reference(hosted(0))
        for output in outputs:
            assert torch.equal(output.cpu(), right)


def micro_batches(model: Model, inputs: PinnedInputs, distribution: Any, step: int) -> list[Tensor]:
    a, b = inputs.send(hosted(step)), inputs.send(hosted(step + 100))
    assert distribution.micro_batches is not None
    results: list[Tensor] = distribution.micro_batches.run([lambda: model(a), lambda: model(b)], kind=a.shape)
    return results


@pytest.mark.parametrize("order", ORDERS)
def test_both_halves_of_a_step_at_once(machine: SimulatedMachine, order: Order) -> None:
    with unfavourable_on_two_threads(machine, order):
        model, inputs = (
            Model(with_constants, [Wide(8 * (index + 1)) for index in range(6)]),
            PinnedInputs(machine, COMPUTE),
        )
        reference = copy.deepcopy(model)
        distribution = relayed(model, PLACES["one donor"])
        outputs = [output for step in range(3) for output in micro_batches(model, inputs, distribution, step)]
        expected = [reference(hosted(step + half)) for step in range(3) for half in (0, 100)]
        scratch = [torch.zeros(64, device=device.name) for device in machine.devices for _ in range(10)]
        for output, right in zip(outputs, expected, strict=True):
            assert torch.equal(output.cpu(), right)
        del scratch


def test_a_half_that_raises_leaves_the_other_streams_in_order(machine: SimulatedMachine) -> None:
    with unfavourable_on_two_threads(machine, 1):
        model, inputs = Model(in_turn, [Wide(16) for _ in range(6)]), PinnedInputs(machine, COMPUTE)
        reference = copy.deepcopy(model)
        distribution = relayed(model, PLACES["one donor"])
        micro_batches(model, inputs, distribution, 0)
        x = inputs.send(hosted(1))

        def broken() -> Tensor:
            model.blocks[0](x)
            raise ValueError

        assert distribution.micro_batches is not None
        with pytest.raises(ValueError):
            distribution.micro_batches.run([lambda: model(x), broken], kind=x.shape)
        assert torch.equal(model(inputs.send(hosted(2))).cpu(), reference(hosted(2)))
