"""A planner: for `auto`, the model's last blocks stay on the compute device, and other cards are filled in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from multigpu import hookimpl
from multigpu.api import (
    AllocationMode,
    AllocationPlan,
    AllocationRequest,
    BlockKind,
    DeviceInfo,
    Inventory,
    Placement,
)


@hookimpl
def multigpu_plan_allocation(
    inventory: Inventory, request: AllocationRequest, devices: Sequence[DeviceInfo], reserve_bytes: Mapping[str, int]
) -> AllocationPlan | None:
    if request.mode is not AllocationMode.AUTO:
        return None  # somebody else's
    compute, largest = request.compute_device, inventory.largest_block_bytes
    left = {info.name: info.free_bytes - reserve_bytes.get(info.name, 0) for info in devices}
    left[compute] -= inventory.head_bytes + 2 * largest  # room to stream blocks through
    order = [compute, *(name for name in left if name not in (compute, "cpu")), "cpu"]
    placements = []
    for block in reversed(inventory.blocks):
        fitting = next((name for name in order if left[name] >= block.size_bytes), "cpu")
        device = compute if block.kind is BlockKind.HEAD else fitting
        left[device] -= block.size_bytes if block.kind is not BlockKind.HEAD else 0
        placements.append(Placement(block, device))
    is_streamed = any(placement.device != compute for placement in placements)
    staging = 2 * largest if is_streamed else 0
    return AllocationPlan(compute, request.strategy, tuple(reversed(placements)), staging_bytes=staging)
