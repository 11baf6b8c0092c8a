"""A small model with replicas on simulated devices, for the tests of work that several devices do at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from multigpu.multigpu_core.allocation import AllocationPlan, BlockKind, Placement, Strategy
from multigpu.multigpu_core.allocation.inventory.of_module import inventory_of_module
from multigpu.multigpu_core.allocation.planner.plan import WorkShare
from multigpu.multigpu_core.devices import default_registry
from multigpu.multigpu_core.execution import Distribution, PinnedMemory
from multigpu.multigpu_core.execution.parallel.replicas import Job, Replicas

WIDTH = 8
BLOCKS = 4
COMPUTE = "npu:0"


class Calls:
    """The blocks that were called, each on its device, and what is to happen when one is."""

    def __init__(self) -> None:
        self.made: list[tuple[str, int]] = []
        self.at: dict[tuple[str, int], Callable[[], object]] = {}

    def note(self, number: int, x: Tensor) -> None:
        self.made.append((str(x.device), number))
        self.at.get((str(x.device), number), lambda: None)()


class Block(nn.Module):
    """A block with a cache outside the state dict; `note` is told of each call."""

    def __init__(self, number: int, note: Callable[[int, Tensor], None]) -> None:
        super().__init__()
        self.number = number
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("shift", torch.randn(WIDTH), persistent=False)
        self.note = note

    def forward(self, x: Tensor) -> Tensor:
        self.note(self.number, x)
        return x + torch.tanh(self.layer(x)) * self.shift


class Model(nn.Module):
    """Two heads and blocks between them; it keeps its blocks in a list and a bound method, too, as some models do."""

    @torch.inference_mode(mode=False)  # torch counts what is written to such weights
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.calls = Calls()  # no list of the model's own: that it grows would be a side effect
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(Block(number, self.calls.note) for number in range(BLOCKS))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.in_order = list(self.blocks)
        self.end = self.finish
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.in_order:
            x = block(x)
        return self.end(x)

    def finish(self, x: Tensor) -> Tensor:
        return self.out(x)


def inputs(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, WIDTH, generator=generator).to(COMPUTE) for _ in range(count)]


def replicated(model: Model, shares: Sequence[tuple[str, int]], offloaded: Sequence[int] = ()) -> Distribution:
    """Replicas on the devices of the shares; the offloaded blocks, by number, are streamed to all of them."""
    registry = default_registry()
    distribution = Distribution(model, inventory_of_module(model), registry, PinnedMemory(registry, 10**9))
    blocks = [block for block in distribution.inventory.blocks if block.kind is not BlockKind.HEAD]
    away = {blocks[number].name for number in offloaded}
    places = {block.name: "cpu" if block.name in away else COMPUTE for block in distribution.inventory.blocks}
    plan = AllocationPlan(
        COMPUTE,
        Strategy.PARALLEL,
        tuple(Placement(block, places[block.name]) for block in distribution.inventory.blocks),
        staging_bytes=2 * (blocks[0].size_bytes + 2048) if offloaded else 0,
        work_shares=tuple(WorkShare(device, amount) for device, amount in shares),
    )
    distribution.begin(plan)
    for placement in plan.placements:
        distribution.place(placement.block, placement.device)
    distribution.serve(places)
    return distribution


def step(distribution: Distribution, given: Sequence[Tensor], kind: Any = "kind") -> list[Tensor]:
    """A forward for each of these on the device of its index."""
    replicas = distribution.replicas
    assert isinstance(replicas, Replicas)
    jobs = {index: Job(lambda model, x: model(x), x) for index, x in enumerate(given)}
    results = replicas.run(jobs, kind)
    return [results[index] for index in jobs]
