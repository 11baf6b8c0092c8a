"""A finished allocation: every block's device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from .inventory import Block
from .request import Strategy


@dataclass(frozen=True)
class Placement:
    """One block and the device (canonical name) that stores it."""

    block: Block
    device: str


@dataclass(frozen=True)
class AllocationPlan:
    """Where every block of a model is stored; `placements` is in execution order and complete.

    `warnings` are sentences for the user: what was bent so that the request fits.
    """

    compute_device: str
    strategy: Strategy
    placements: tuple[Placement, ...]
    warnings: tuple[str, ...] = ()

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
    def expert_string(self) -> str:
        """The byte string that, with the same strategy, reproduces this plan."""
        if not any(self.bytes_by_device.values()):
            return f"{self.compute_device},*"
        return ";".join(f"{device},{size}b" for device, size in self.bytes_by_device.items())
