"""A finished allocation: every block's device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from multigpu.multigpu_core.allocation.inventory.inventory import Block
from multigpu.multigpu_core.strategies.strategy import Strategy


@dataclass(frozen=True)
class Placement:
    """One block and the device (canonical name) that stores it.

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

    `warnings` are sentences for the user: what was bent so that the request fits. `staging_bytes` are kept on the
    compute device, beside the blocks that it stores, for those that are streamed there. With `work_shares` each of
    these devices, the compute device first, stores and keeps as much, and computes its part of every step.
    """

    compute_device: str
    strategy: Strategy
    placements: tuple[Placement, ...]
    warnings: tuple[str, ...] = ()
    staging_bytes: int = 0
    wish: str = ""
    """The expert string that made the plan, where its bytes by device alone do not tell which blocks are where."""
    work_shares: tuple[WorkShare, ...] = ()

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
