"""Make a plan from a request: which block is stored where. Pure, exact and the same on every machine.

Planning the byte string of a plan gives the same plan again, since strategies answer so: see `Assign`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from multigpu.multigpu_core.allocation.inventory.inventory import Inventory
from multigpu.multigpu_core.allocation.language.amounts import readable_bytes
from multigpu.multigpu_core.allocation.language.request import AllocationMode, AllocationRequest
from multigpu.multigpu_core.devices import DeviceInfo

from .byte_targets import ByteTargets, byte_targets
from .capacity import CPU, Capacity, is_movable, measure_capacity
from .plan import AllocationPlan, Placement
from .replicated import plan_replicas
from .staging_bytes import Staging, capacity_beside_staging, refuse_without_staging, staging_bytes


def plan_allocation(
    inventory: Inventory,
    request: AllocationRequest,
    devices: Sequence[DeviceInfo],
    reserve_bytes: Mapping[str, int] | None = None,
    staging: Staging = "auto",
) -> AllocationPlan:
    """The plan for `request` on `devices`, whose free bytes are what the weights may use (what the model itself
    occupies already, and will give up, counts as free). `reserve_bytes` by device name is kept free for inference.

    Heads stay on the compute device. Explicit shares that do not fit are refused; virtual VRAM and auto spill to the
    next donor and then to cpu. An ordinary load (mode NONE) is not checked: the host manages its memory.

    Raises:
        PlanError: a device cannot store what falls to it.
        DeviceError: the request names a device that is not in `devices`.
    """
    if request.mode is AllocationMode.NONE:
        return _plan(inventory, request, {})
    if not request.strategy.relays:
        inventory = inventory.by_layers  # donors that compute do so with whole blocks
    all_capacities = measure_capacity(inventory, request, devices, reserve_bytes or {})
    if request.strategy.replicates and request.compute_device != CPU:
        return plan_replicas(inventory, request, all_capacities, _way_out(request), staging)
    movable = [i for i, block in enumerate(inventory.blocks) if is_movable(block.kind, block.size_bytes)]
    capacity = all_capacities
    if not request.is_explicit and not _fits_whole(request, capacity):
        capacity = capacity_beside_staging(capacity, [inventory.blocks[i] for i in movable], staging)
    targets, warnings = byte_targets(request, capacity)
    way_out = _way_out(request)
    capacity.refuse_overfull(targets, way_out)
    blocks = [inventory.blocks[i] for i in movable]
    chosen = request.strategy.assign(blocks, request.compute_device, targets, capacity.free_bytes)
    plan = _plan(inventory, request, dict(zip(movable, chosen, strict=True))).by_layers
    stored = {**dict.fromkeys(targets, 0), **plan.bytes_by_device}
    stored[request.compute_device] -= capacity.head_bytes
    capacity.refuse_overfull(stored, way_out)
    warnings = [*capacity.warnings, *warnings, *_rounding_warnings(request, targets, stored)]
    plan = replace(plan, warnings=tuple(warnings))
    streamed = [placement.block for placement in plan.streamed if placement.block.size_bytes]
    own_bytes = stored[request.compute_device]
    refuse_without_staging(streamed, own_bytes, all_capacities, way_out)
    spare = all_capacities.free_bytes[request.compute_device] - own_bytes
    return replace(plan, staging_bytes=staging_bytes(streamed, spare, staging))


def _fits_whole(request: AllocationRequest, capacity: Capacity) -> bool:
    """Whether nothing will have to be streamed to the compute device."""
    is_all_wanted = request.mode is AllocationMode.AUTO
    return is_all_wanted and capacity.movable_bytes <= capacity.free_bytes[capacity.compute_device]


def _plan(inventory: Inventory, request: AllocationRequest, device_of: Mapping[int, str]) -> AllocationPlan:
    compute = request.compute_device
    devices = [device_of.get(i, compute) for i in range(len(inventory.blocks))]
    relays = set(devices) - {compute, CPU} if request.strategy.relays else set()
    placements = tuple(Placement(b, d, relayed=d in relays) for b, d in zip(inventory.blocks, devices, strict=True))
    return AllocationPlan(compute, request.strategy, placements)


def _way_out(request: AllocationRequest) -> str:
    if request.is_explicit:
        return "Give it a smaller share, free memory on it, or write auto for a plan that fits."
    if request.mode is AllocationMode.VIRTUAL_VRAM:
        return "Name more donors, or free memory."
    return "No other device has free memory: free some, or use a smaller model file."


def _rounding_warnings(request: AllocationRequest, targets: ByteTargets, stored: Mapping[str, int]) -> list[str]:
    """What whole blocks and full donors made of the quotas."""
    warnings = []
    if request.mode is AllocationMode.VIRTUAL_VRAM:
        named = (request.compute_device, *request.donors)
        spilled = sum(size for device, size in stored.items() if device not in named)
        if spilled:
            full = ", ".join(request.donors)
            warnings.append(f"{full} cannot store all offloaded weights: {readable_bytes(spilled)} go to {CPU}.")
    if request.is_explicit:
        warnings += [
            f"{device} stores nothing: its share of {readable_bytes(size)} is less than a block."
            for device, size in targets.items()
            if size and not stored[device] and device != request.compute_device
        ]
    return warnings
