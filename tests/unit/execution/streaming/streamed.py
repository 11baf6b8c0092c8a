"""A small model of which every other block is stored on another device, for the tests of streaming."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from multigpu.multigpu_core.allocation import AllocationPlan, BlockKind, Placement, Strategy
from multigpu.multigpu_core.allocation.inventory.of_module import inventory_of_module
from multigpu.multigpu_core.devices import default_registry
from multigpu.multigpu_core.execution import Distribution, PinnedMemory

WIDTH = 32
BLOCKS = 8
COMPUTE = "npu:0"
GB = 10**9
PACKED_BYTES = 16_896
"""Of a block."""
BUFFER_BYTES = 17_500
"""Of pinned memory: too little for the weights of a block, enough for what they pass through."""


EQUAL = (2 * WIDTH,) * BLOCKS
UNEQUAL = (64, 16, 200, 32, 96, 24, 160, 48)
"""Hidden widths of blocks: places in the staging buffer overlap several others."""


class Block(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, hidden)
        self.down = nn.Linear(hidden, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x)))


class InOrder(nn.Module):
    """Blocks, made after the weights in front of them, that are called as `order` says; as they come by default."""

    def __init__(self, blocks: Iterable[nn.Module], width: int = WIDTH) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(width, width)
        self.blocks = nn.ModuleList(blocks)
        self.order: Sequence[int] = list(range(len(self.blocks)))
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for index in self.order:
            x = self.blocks[index](x)
        return x


class Model(InOrder):
    def __init__(self, hidden: Sequence[int] = EQUAL) -> None:
        super().__init__(Block(each) for each in hidden)


def split(
    model: Model,
    device: str,
    locked_bytes: int = GB,
    staged_blocks: int = 3,
    locked: PinnedMemory | None = None,
) -> Distribution:
    """Every other block on `device`, the rest on the compute device."""
    registry = default_registry()
    locked = locked or PinnedMemory(registry, locked_bytes)
    distribution = Distribution(model, inventory_of_module(model), registry, locked)
    blocks = [block for block in distribution.inventory.blocks if block.kind is not BlockKind.HEAD]
    away = {block.name for block in blocks[::2]}
    placements = tuple(
        Placement(block, device if block.name in away else COMPUTE) for block in distribution.inventory.blocks
    )
    plan = AllocationPlan(COMPUTE, Strategy.INTERLEAVE, placements)
    distribution.begin(replace(plan, staging_bytes=staged_blocks * (blocks[0].size_bytes + 2048)))
    for placement in placements:
        distribution.place(placement.block, placement.device)
    distribution.serve({placement.block.name: placement.device for placement in placements})
    return distribution


def inputs(seed: int = 1) -> Tensor:
    return torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(seed)).to(COMPUTE)


class BuffersOnly(PinnedMemory):
    """Pinned memory of which all weights have to leave a buffer's worth."""

    def has_room(self, size_bytes: int) -> bool:
        return False

    def allocate(self, size_bytes: int, compute_device: str, *, is_buffer: bool = False) -> Tensor | None:
        return super().allocate(size_bytes, compute_device, is_buffer=True) if is_buffer else None


def spread(
    model: Model, devices: Sequence[str], staging: float, kind: type[PinnedMemory] = PinnedMemory
) -> Distribution:
    """All blocks on these devices in turn; `staging` is the share of their bytes that is kept for them."""
    registry = default_registry()
    distribution = Distribution(model, inventory_of_module(model), registry, kind(registry, GB))
    blocks = [block for block in distribution.inventory.blocks if block.kind is not BlockKind.HEAD]
    away = {block.name: devices[index % len(devices)] for index, block in enumerate(blocks)}
    places = {block.name: away.get(block.name, COMPUTE) for block in distribution.inventory.blocks}
    plan = AllocationPlan(
        COMPUTE,
        Strategy.INTERLEAVE,
        tuple(Placement(block, places[block.name]) for block in distribution.inventory.blocks),
    )
    staging_bytes = int(staging * sum(block.size_bytes + 1024 for block in blocks))
    distribution.begin(replace(plan, staging_bytes=staging_bytes))
    for placement in plan.placements:
        distribution.place(placement.block, placement.device)
    distribution.serve(places)
    return distribution


def expected(x: Tensor) -> Tensor:
    return Model().to(COMPUTE)(x).cpu()
