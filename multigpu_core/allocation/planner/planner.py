"""Make a plan from a request: which block is stored where. Pure, exact and the same on every machine.

The devices are served one after the other, the compute device first. Each picks, out of the blocks that are left, about
as many bytes as bring all devices served so far to the sum of their quotas; so no error adds up, each device ends
within one block of its quota, and the last one takes what is left. A device that has no room for the block nearest to
its quota passes less than a block on to the next, so with n such devices a share can be n + 1 blocks from its quota.

Because the pickers are projections (see spread.py) and the order of serving can be told from the plan, planning the
plan's own byte string gives the same plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import compress

from multigpu.multigpu_core.allocation.inventory.inventory import Inventory
from multigpu.multigpu_core.allocation.language.amounts import readable_bytes
from multigpu.multigpu_core.allocation.language.request import AllocationMode, AllocationRequest
from multigpu.multigpu_core.contract.strategy import Strategy
from multigpu.multigpu_core.devices import DeviceInfo

from .block_selection import keep_evenly, pick_evenly, pick_first, pick_last
from .byte_targets import ByteTargets, byte_targets
from .capacity import CPU, Capacity, is_movable, measure_capacity
from .plan import AllocationPlan, Placement
from .relay_chunks import ChunkPicker
from .staging_bytes import capacity_beside_staging, staging_bytes

Pick = Callable[[Sequence[int], int, int], list[bool]]
"""From sizes, wanted bytes and the most there may be: which blocks."""


def plan_allocation(
    inventory: Inventory,
    request: AllocationRequest,
    devices: Sequence[DeviceInfo],
    reserve_bytes: Mapping[str, int] | None = None,
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
    all_capacities = measure_capacity(inventory, request, devices, reserve_bytes or {})
    movable = [i for i, block in enumerate(inventory.blocks) if is_movable(block.kind, block.size_bytes)]
    sizes = {i: inventory.blocks[i].size_bytes for i in movable}
    capacity = all_capacities
    if not request.is_explicit and not _fits_whole(request, capacity):
        capacity = capacity_beside_staging(capacity, [inventory.blocks[i] for i in movable])
    targets, warnings = byte_targets(request, capacity)
    way_out = _way_out(request)
    capacity.refuse_overfull(targets, way_out)
    if request.strategy is Strategy.RELAY:
        device_of = _assign_chunks(inventory, sizes, targets, capacity)
    else:
        device_of = _assign(inventory, sizes, targets, capacity, request.strategy)
    stored = dict.fromkeys(targets, 0)
    for i, device in device_of.items():
        stored[device] += sizes[i]
    capacity.refuse_overfull(stored, way_out)
    warnings = [*capacity.warnings, *warnings, *_rounding_warnings(request, targets, stored)]
    plan = _plan(inventory, request, device_of, tuple(warnings))
    streamed = [placement.block for placement in plan.streamed if placement.block.size_bytes]
    staging = staging_bytes(streamed, stored[request.compute_device], all_capacities, way_out)
    return replace(plan, staging_bytes=staging)


def _fits_whole(request: AllocationRequest, capacity: Capacity) -> bool:
    """Whether nothing will have to be streamed to the compute device."""
    is_all_wanted = request.mode is AllocationMode.AUTO
    return is_all_wanted and capacity.movable_bytes <= capacity.free_bytes[capacity.compute_device]


def _assign(
    inventory: Inventory, sizes: Mapping[int, int], targets: ByteTargets, capacity: Capacity, strategy: Strategy
) -> dict[int, str]:
    """The device of every block in `sizes`, by the block's index."""
    compute, *donors = targets
    if strategy is Strategy.INTERLEAVE:
        # By name, not as written: a byte string lists devices by first use, and must give the same order. cpu comes
        # last because it is the likeliest to have room for what the others leave.
        donors.sort(key=lambda name: (name == CPU, name))
        work = [inventory.blocks[i].work or sizes[i] for i in sizes]
        pick_own: Pick = partial(keep_evenly, work)
        pick: Pick = pick_evenly
    else:
        pick_own, pick = pick_last, pick_first
    device_of: dict[int, str] = {}
    left = list(sizes)
    owed = 0
    for device in (compute, *donors)[:-1]:
        owed += targets[device]
        left_sizes = [sizes[i] for i in left]
        picked = (pick_own if device == compute else pick)(left_sizes, owed, capacity.free_bytes[device])
        device_of.update(dict.fromkeys(compress(left, picked), device))
        owed -= sum(compress(left_sizes, picked))
        left = [i for i, is_picked in zip(left, picked, strict=True) if not is_picked]
    device_of.update(dict.fromkeys(left, (compute, *donors)[-1]))
    return device_of


def _assign_chunks(
    inventory: Inventory, sizes: Mapping[int, int], targets: ByteTargets, capacity: Capacity
) -> dict[int, str]:
    """The same for the relay: chunks for the donors that compute; the cpu's blocks lie among the compute device's."""
    compute, *donors = targets
    relays = sorted(name for name in donors if name != CPU)
    picker = ChunkPicker(tuple(sizes.values()), [inventory.blocks[i].work or size for i, size in sizes.items()])
    indices = list(sizes)
    device_of: dict[int, str] = {}
    owed = 0
    for device in reversed(relays):  # from the end of each round, so that every round begins on the compute device
        owed += targets[device]
        picked = [indices[i] for i in picker.pick(owed, capacity.free_bytes[device])]
        device_of.update(dict.fromkeys(picked, device))
        owed -= sum(sizes[i] for i in picked)
    left = {indices[i]: sizes[indices[i]] for i in picker.left}
    own = {device: size for device, size in targets.items() if device not in relays}
    own[compute] += owed
    return device_of | _assign(inventory, left, own, capacity, Strategy.INTERLEAVE)


def _plan(
    inventory: Inventory, request: AllocationRequest, device_of: Mapping[int, str], warnings: tuple[str, ...] = ()
) -> AllocationPlan:
    compute = request.compute_device
    devices = [device_of.get(i, compute) for i in range(len(inventory.blocks))]
    relays = set(devices) - {compute, CPU} if request.strategy is Strategy.RELAY else set()
    placements = tuple(Placement(b, d, relayed=d in relays) for b, d in zip(inventory.blocks, devices, strict=True))
    return AllocationPlan(compute, request.strategy, placements, warnings)


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
