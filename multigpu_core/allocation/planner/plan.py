"""A finished allocation: every block's device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

from multigpu.multigpu_core.allocation.inventory.inventory import Block, BlockKind
from multigpu.multigpu_core.strategies.strategy import Strategy


@dataclass(frozen=True)
class Placement:
    """One block, or one layer of a block, and the device (canonical name) that stores it.

    A stored block off the compute device is streamed there for its forward, or, where `relayed`, computed where it is
    stored: then its activations travel.
    """

    block: Block
    device: str
    relayed: bool = False


@dataclass(frozen=True)
class WorkShare:
    """A device that computes with a replica of the model, and its part of the work, as bytes of the expert string."""

    device: str
    amount: int


@dataclass(frozen=True)
class AllocationPlan:
    """Where every block of a model is stored; `placements` is in execution order and complete.

    A block that has layers may be placed as a whole or layer by layer.

    `warnings` are sentences for the user: what was bent so that the request fits. `staging_bytes` are kept on the
    compute device, beside the blocks that it stores, for those that are streamed there. With `work_shares` each of
    these devices, the compute device first, stores and keeps as much, and computes its part of every step.
    """

    compute_device: str
    strategy: Strategy
    placements: tuple[Placement, ...]
    warnings: tuple[str, ...] = ()
    staging_bytes: int = 0
    staging_reason: str = ""
    """Why it is so many bytes, as the end of a sentence."""
    wish: str = ""
    """The expert string that made the plan, where its bytes by device alone do not tell which blocks are where."""
    work_shares: tuple[WorkShare, ...] = ()

    @cached_property
    def by_layers(self) -> AllocationPlan:
        """The same plan, layer by layer where weights are streamed; what is too small for that stays where it computes.

        Relayed blocks stay whole.
        """
        if not any(placement.block.layers for placement in self.placements):
            return self
        return replace(self, placements=tuple(part for placement in self.placements for part in self._parts(placement)))

    def _parts(self, placement: Placement) -> Iterator[Placement]:
        if placement.relayed:
            yield placement
            return
        for part in placement.block.parts:
            stays = part.kind is BlockKind.HEAD
            yield Placement(part, self.compute_device if stays else placement.device)

    @cached_property
    def bytes_by_device(self) -> dict[str, int]:
        """Bytes on each device, the compute device first, then in order of first use; sums to the model exactly."""
        sizes = {self.compute_device: 0}
        for placement in self.placements:
            sizes[placement.device] = sizes.get(placement.device, 0) + placement.block.size_bytes
        return sizes

    @property
    def compute_bytes(self) -> int:
        return self.bytes_by_device[self.compute_device]

    @property
    def offloaded(self) -> tuple[Placement, ...]:
        """Placements off the compute device, in execution order."""
        return tuple(p for p in self.placements if p.device != self.compute_device)

    @property
    def streamed(self) -> tuple[Placement, ...]:
        """Placements whose weights travel to the compute device in every step, in execution order."""
        return tuple(p for p in self.offloaded if not p.relayed)

    @property
    def replica_devices(self) -> tuple[str, ...]:
        """The devices that hold a replica of what the compute device stores."""
        return tuple(share.device for share in self.work_shares if share.device != self.compute_device)

    @property
    def expert_string(self) -> str:
        """The string that, with the same strategy, reproduces this plan: bytes, unless it was made by another wish."""
        if self.wish:
            return self.wish
        if not any(self.bytes_by_device.values()):
            return f"{self.compute_device},*"
        sizes = {share.device: share.amount for share in self.work_shares} or {self.compute_device: self.compute_bytes}
        sizes |= {device: size for device, size in self.bytes_by_device.items() if device != self.compute_device}
        return ";".join(f"{device},{size}b" for device, size in sizes.items())


@dataclass(frozen=True)
class BlockShare:
    """What one device stores of one block: all of it, or some of its layers."""

    name: str
    kind: BlockKind
    device: str
    size_bytes: int
    relayed: bool = False


def block_shares(placements: Iterable[Placement]) -> list[BlockShare]:
    """The blocks in execution order; one whose layers are on several devices once for each.

    What of a block is too small to be streamed counts with the rest of it.
    """
    shares: list[BlockShare] = []
    for name, parts in groupby(placements, key=lambda placement: placement.block.whole_name):
        of_block = list(parts)
        layers = [each for each in of_block if not _is_rest(each.block)] or of_block
        kind, is_relayed = layers[0].block.kind, layers[0].relayed
        sizes = dict.fromkeys((each.device for each in layers), 0)
        for each in layers:
            sizes[each.device] += each.block.size_bytes
        sizes[max(sizes, key=lambda device: sizes[device])] += sum(
            each.block.size_bytes for each in of_block if each not in layers
        )
        shares += (BlockShare(name, kind, device, size, is_relayed) for device, size in sizes.items())
    return shares


def _is_rest(block: Block) -> bool:
    return bool(block.part_of) and block.kind is BlockKind.HEAD
