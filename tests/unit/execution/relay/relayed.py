"""A small model whose blocks are spread over simulated cards that compute, for the tests of the relay."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from multigpu.multigpu_core.allocation import AllocationPlan, BlockKind, Inventory, Placement, Strategy
from multigpu.multigpu_core.allocation.inventory.of_module import inventory_of_module
from multigpu.multigpu_core.devices import default_registry
from multigpu.multigpu_core.execution import Distribution, PinnedMemory

WIDTH = 8
COMPUTE = "npu:0"
Glue = Callable[[Sequence[nn.Module], Tensor], Any]


class Block(nn.Module):
    """A block with a weight of its own, a cache outside the state dict, and layers that it calls one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.randn(WIDTH))
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.register_buffer("shift", torch.randn(WIDTH))
        self.register_buffer("cache", torch.randn(WIDTH), persistent=False)

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x)) * self.modulation
        return x + self.shift * self.cache


class InPlace(Block):
    """As many transformers do it: the activations are changed in place and returned."""

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        x += super().forward(x)
        return x


class Model(nn.Module):
    """Two heads and, between them, blocks that `glue` calls."""

    def __init__(self, glue: Glue, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.glue = glue
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(blocks)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.glue(list(self.blocks), self.embed(x)))


def in_turn(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    """The plainest glue."""
    for block in blocks:
        x = block(x)
    return x


def resident(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).to(COMPUTE)


def inputs(batch: int = 3) -> Tensor:
    return torch.randn(batch, WIDTH, generator=torch.Generator().manual_seed(1)).to(COMPUTE)


def relayed(model: nn.Module, devices: Sequence[str]) -> Distribution:
    """Store each block on its device; accelerators compute theirs, the cpu's are streamed."""
    registry = default_registry()
    distribution = Distribution(model, inventory_of_module(model), registry, PinnedMemory(registry, 10**9))
    plan = _plan(distribution.inventory, devices)
    distribution.begin(plan)
    for placement in plan.placements:
        distribution.place(placement.block, placement.device)
    distribution.serve({placement.block.name: placement.device for placement in plan.placements})
    return distribution


def _plan(inventory: Inventory, devices: Sequence[str]) -> AllocationPlan:
    offered = iter(devices)
    placements = [(block, COMPUTE if block.kind is BlockKind.HEAD else next(offered)) for block in inventory.blocks]
    return AllocationPlan(
        COMPUTE,
        Strategy.RELAY,
        tuple(Placement(block, device, relayed=device not in (COMPUTE, "cpu")) for block, device in placements),
    )
