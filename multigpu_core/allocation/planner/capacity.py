"""How much of a model each device can take: the limits within which a plan is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from multigpu.multigpu_core.allocation.inventory.inventory import BlockKind, Inventory
from multigpu.multigpu_core.allocation.language.errors import PlanError
from multigpu.multigpu_core.allocation.language.request import AllocationRequest
from multigpu.multigpu_core.devices import DeviceError, DeviceInfo

CPU = "cpu"


@dataclass(frozen=True)
class Capacity:
    """Room for a model's movable blocks: all but the heads, which the compute device stores in any case.

    `free_bytes` has every device that a plan may use, in the machine's order; on the compute device the heads are taken
    off already. `total_bytes` is each device's whole memory, `reserve_bytes` what of the compute device's free memory
    is left for inference.
    """

    compute_device: str
    head_bytes: int
    movable_bytes: int
    free_bytes: Mapping[str, int]
    total_bytes: Mapping[str, int]
    reserve_bytes: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def accelerators(self) -> tuple[str, ...]:
        """All devices but the compute device and the cpu."""
        return tuple(name for name in self.free_bytes if name not in (self.compute_device, CPU))

    def require(self, device: str) -> None:
        """Raises DeviceError if the plan may not use `device`."""
        if device not in self.free_bytes:
            raise DeviceError(device, tuple(self.free_bytes))

    def refuse_overfull(self, bytes_by_device: Mapping[str, int], way_out: str) -> None:
        """Raises PlanError for the first device that would have to store more movable bytes than it has room for."""
        for device, size in bytes_by_device.items():
            if size > self.free_bytes[device]:
                heads = self.head_bytes if device == self.compute_device else 0
                raise PlanError(device, size + heads, self.free_bytes[device] + heads, way_out)


def measure_capacity(
    inventory: Inventory, request: AllocationRequest, devices: Sequence[DeviceInfo], reserve_bytes: Mapping[str, int]
) -> Capacity:
    """The room on `devices` after `reserve_bytes`; raises PlanError if the compute device cannot even store the heads.

    The heads go before the reserve: without them there is no inference to keep memory for.
    """
    compute = request.compute_device
    heads = sum(block.size_bytes for block in inventory.blocks if not is_movable(block.kind, block.size_bytes))
    free = {info.name: info.free_bytes - reserve_bytes.get(info.name, 0) for info in devices}
    if compute not in free:
        raise DeviceError(compute, tuple(free))
    free_for_heads = next(info.free_bytes for info in devices if info.name == compute)
    if heads > free_for_heads:
        way_out = "These layers cannot be offloaded: free memory there, or compute on a larger device."
        raise PlanError(compute, heads, free_for_heads, way_out)
    warnings: tuple[str, ...] = ()
    if heads > free[compute]:
        warnings = (f"{compute} has less memory left for inference than the estimate says it needs.",)
    free[compute] -= heads
    return Capacity(
        compute_device=compute,
        head_bytes=heads,
        movable_bytes=inventory.total_bytes - heads,
        free_bytes={name: max(0, size) for name, size in free.items()},
        total_bytes={info.name: info.total_bytes for info in devices},
        reserve_bytes=free_for_heads - heads - max(0, free[compute]),
        warnings=warnings,
    )


def is_movable(kind: BlockKind, size_bytes: int) -> bool:
    """Heads stay on the compute device, and so does what has no bytes."""
    return kind is not BlockKind.HEAD and size_bytes > 0
