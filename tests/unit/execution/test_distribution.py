"""Blocks stored elsewhere compute as if they were resident, however the model calls them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from multigpu.multigpu_core.allocation import AllocationPlan, BlockKind, Inventory, Placement, Strategy
from multigpu.multigpu_core.allocation.inventory.of_module import inventory_of_module
from multigpu.multigpu_core.devices import default_registry
from multigpu.multigpu_core.execution import Distribution, DistributionError, PinnedMemory
from multigpu.testing import SimulatedMachine

WIDTH = 8
BLOCKS = 4
COMPUTE = "npu:0"
DEVICES = ("npu:0", "npu:1", "cpu")


class Block(nn.Module):
    """A block with a weight of its own, inner layers, and a list of layers that it calls one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.randn(WIDTH), requires_grad=False)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.register_buffer("shift", torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x)) * self.modulation
        return x + self.shift


class Model(nn.Module):
    """Runs a program: which block, and whether it is called whole or its first layer alone."""

    def __init__(self, program: Sequence[tuple[int, bool]]) -> None:
        super().__init__()
        self.program = program
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.blocks[1].layers[0].weight = self.blocks[1].layers[1].weight  # one tensor under two names
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for index, whole in self.program:
            block = self.blocks[index]
            x = block(x) if whole else block.layers[0](x)
        return x


def plan_of(inventory: Inventory, devices: Sequence[str]) -> AllocationPlan:
    placements, offered = [], iter(devices)
    for block in inventory.blocks:
        placements.append(Placement(block, COMPUTE if block.kind is BlockKind.HEAD else next(offered)))
    return AllocationPlan(COMPUTE, Strategy.INTERLEAVE, tuple(placements))


def distributed(model: nn.Module, devices: Sequence[str]) -> Distribution:
    registry = default_registry()
    distribution = Distribution(model, inventory_of_module(model), registry, PinnedMemory(registry, 10**9))
    plan = plan_of(distribution.inventory, devices)
    distribution.begin(plan)
    for placement in plan.placements:
        distribution.place(placement.block, placement.device)
    distribution.serve({placement.block.name: placement.device for placement in plan.placements})
    return distribution


def resident(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).to(COMPUTE)


def inputs() -> Tensor:
    return torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1)).to(COMPUTE)


PROGRAMS = st.lists(st.tuples(st.integers(0, BLOCKS - 1), st.booleans()), min_size=1, max_size=8)
PLACES = st.lists(st.sampled_from(DEVICES), min_size=BLOCKS, max_size=BLOCKS)


@given(program=PROGRAMS, devices=PLACES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_of_calls_gives_the_resident_model_s_numbers(
    simulated_machine: SimulatedMachine, program: list[tuple[int, bool]], devices: list[str]
) -> None:
    model = Model(program)
    expected = resident(model)(inputs()).cpu()
    distribution = distributed(model, devices)
    stored = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    for _ in range(2):
        assert torch.equal(model(inputs()).cpu(), expected)
        now = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
        assert all(now[name] is value for name, value in stored.items())
    distribution.release()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_step_counts_each_block_s_bytes_once_however_often_a_weight_is_named(
    simulated_machine: SimulatedMachine,
) -> None:
    model = Model([(index, True) for index in range(BLOCKS)])
    distribution = distributed(model, ("cpu", "npu:1", "npu:0", "cpu"))
    offloaded = sum(placement.block.size_bytes for placement in distribution.plan.offloaded)  # type: ignore[union-attr]
    for steps in (1, 2, 3):
        model(inputs())
        residency = distribution.residency()
        assert residency is not None
        assert (residency.step_transfer_bytes, residency.total_transfer_bytes) == (offloaded, steps * offloaded)


def test_one_tensor_under_two_names_stays_one_wherever_it_goes(simulated_machine: SimulatedMachine) -> None:
    model = Model([(1, True)])
    distribution = distributed(model, ("cpu", "npu:1", "cpu", "cpu"))
    layers = model.blocks[1].layers
    assert layers[0].weight is layers[1].weight
    assert layers[0].weight.device == torch.device("npu:1")
    assert distribution.bytes_by_device() == distribution.plan.bytes_by_device  # type: ignore[union-attr]


def test_weights_that_somebody_moved_away_are_an_error_that_names_the_bytes(
    simulated_machine: SimulatedMachine,
) -> None:
    model = Model([(0, True)])
    distribution = distributed(model, ("cpu", "npu:1", "cpu", "cpu"))
    devices = {block.name: distribution.device_of(block) for block in distribution.inventory.blocks}
    model.blocks[1].to("cpu")
    with pytest.raises(DistributionError, match="npu:1") as error:
        distribution.serve(devices)
    assert error.value.planned["npu:1"] > 0 and "npu:1" not in error.value.actual


def test_demoted_blocks_leave_the_compute_device_and_heads_stay(simulated_machine: SimulatedMachine) -> None:
    model = Model([(index, True) for index in range(BLOCKS)])
    expected = resident(model)(inputs()).cpu()
    distribution = distributed(model, ("npu:0",) * BLOCKS)
    block_bytes = max(block.size_bytes for block in distribution.inventory.blocks)
    assert block_bytes <= distribution.demote(block_bytes, "cpu") <= 2 * block_bytes
    distribution.demote(10**9, "cpu")
    assert distribution.bytes_by_device()[COMPUTE] == distribution.inventory.head_bytes
    assert torch.equal(model(inputs()).cpu(), expected)
