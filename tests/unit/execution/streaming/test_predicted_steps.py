"""What is predicted of a step is what the streamer then takes on the virtual clock."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from multigpu.multigpu_core.allocation import AllocationPlan, BlockKind, Placement, Strategy, predict_step
from multigpu.multigpu_core.allocation.inventory.of_module import inventory_of_module
from multigpu.multigpu_core.devices import HardwareProfile, LinkSpeed, default_registry
from multigpu.multigpu_core.execution import Distribution, PinnedMemory
from multigpu.testing import ClockSettings, SimulatedMachine

WIDTH = 8
TOKENS = 16


class Model(nn.Module):
    """Blocks of one weight each: of different sizes, and of as much work as size."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(size) for size in sizes)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Block(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.proj = nn.Linear(WIDTH, size * WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.proj(x)
        return y[:, :WIDTH]


@given(
    sizes=st.lists(st.integers(1, 5), min_size=2, max_size=12),
    away=st.lists(st.sampled_from(["npu:0", "cpu", "npu:1"]), min_size=12, max_size=12),
    places=st.integers(1, 3),
    seconds_a_byte=st.floats(0.0001, 0.01),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_step_takes_as_long_as_was_predicted(
    simulated_machine: SimulatedMachine, sizes: list[int], away: list[str], places: int, seconds_a_byte: float
) -> None:
    machine = simulated_machine
    machine.peers.add(frozenset(("npu:0", "npu:1")))
    model = Model(sizes)
    inventory = inventory_of_module(model)
    assert all(block.kind is not BlockKind.HEAD for block in inventory.blocks)
    placements = tuple(Placement(block, away[index]) for index, block in enumerate(inventory.blocks))
    largest = max((p.block.size_bytes for p in placements if p.device != "npu:0"), default=0)
    plan = AllocationPlan("npu:0", Strategy.INTERLEAVE, placements, staging_bytes=places * largest)
    fast, slow = LinkSpeed(1 / seconds_a_byte, 1.0), LinkSpeed(0.5 / seconds_a_byte, 1.0)
    profile = HardwareProfile({("cpu", "npu:0"): fast, ("npu:1", "npu:0"): slow}, {"npu:0": {"float32": 2000.0}})
    predicted = predict_step(plan, profile, TOKENS)
    assert predicted.step_seconds >= predicted.limit_seconds * (1 - 1e-9)
    assert seconds_on_the_clock(machine, model, plan, profile) == pytest.approx(predicted.step_seconds, rel=0.01)


def seconds_on_the_clock(
    machine: SimulatedMachine, model: Model, plan: AllocationPlan, profile: HardwareProfile
) -> float:
    registry = default_registry()
    distribution = Distribution(model, inventory_of_module(model), registry, PinnedMemory(registry, 10**9))
    distribution.begin(plan)
    for placement in plan.placements:
        distribution.place(placement.block, placement.device)
    distribution.serve({placement.block.name: placement.device for placement in plan.placements})
    x = torch.randn(TOKENS, WIDTH).to("npu:0")
    machine.clock.start(ClockSettings(profile))
    ends = []
    for _ in range(9):  # three for each number of laps that a ring may have
        model(x)
        machine.module.current_stream("npu:0").synchronize()  # and not for the copies ahead
        ends.append(machine.clock.now_seconds)
    machine.clock.stop()
    distribution.release()
    return (ends[-1] - ends[-7]) / 6
