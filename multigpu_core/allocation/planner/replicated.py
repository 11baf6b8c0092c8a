"""Plan a strategy that replicates: several accelerators compute, and each stores the same blocks.

What the request gives to accelerators of the compute device's family is, together, what each of them stores, and in
proportion it is how the work is shared among them. What it gives to other devices is streamed to all. The accelerator
with the least room sets the limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction

from multigpu.multigpu_core.allocation.inventory.inventory import Inventory
from multigpu.multigpu_core.allocation.language.amounts import readable_bytes
from multigpu.multigpu_core.allocation.language.errors import PlanError
from multigpu.multigpu_core.allocation.language.request import AllocationMode, AllocationRequest, Share
from multigpu.multigpu_core.devices import HardwareProfile

from .byte_targets import ByteTargets, byte_targets, fill, proportional
from .capacity import CPU, Capacity, is_movable
from .plan import AllocationPlan, Placement, WorkShare
from .staging_bytes import Staging, capacity_beside_staging, refuse_without_staging, staging_bytes

Weights = dict[str, Fraction]
"""The devices that compute, the compute device first, with their parts of the work."""


def plan_replicas(
    inventory: Inventory, request: AllocationRequest, capacity: Capacity, way_out: str, staging: Staging
) -> AllocationPlan:
    """The plan for a request in any mode but NONE; `way_out` says what to do where it does not fit.

    Raises:
        PlanError: a device cannot store what falls to it.
        DeviceError: the request names a device that the plan may not use.
    """
    compute = request.compute_device
    movable = [i for i, block in enumerate(inventory.blocks) if is_movable(block.kind, block.size_bytes)]
    blocks = [inventory.blocks[i] for i in movable]
    computing = _computing(request, capacity)
    room = {device: _room(capacity, device) for device in computing}
    tightest = min(room, key=lambda device: room[device])
    common = replace(capacity, free_bytes={**capacity.free_bytes, compute: room[tightest]})
    beside_staging = common if _fits(request, common) else capacity_beside_staging(common, blocks, staging)
    targets, weights, warnings = _targets(request, beside_staging, computing)
    with _naming(tightest, common):
        common.refuse_overfull(targets, way_out)
        chosen = request.strategy.assign(blocks, compute, targets, beside_staging.free_bytes)
        device_of = dict(zip(movable, chosen, strict=True))
        placements = tuple(Placement(block, device_of.get(i, compute)) for i, block in enumerate(inventory.blocks))
        plan = AllocationPlan(compute, request.strategy, placements, tuple(warnings))
        stored = plan.bytes_by_device | {compute: plan.compute_bytes - common.head_bytes}
        common.refuse_overfull(stored, way_out)
        streamed = [placement.block for placement in plan.streamed]
        refuse_without_staging(streamed, stored[compute], common, way_out)
    spare = common.free_bytes[compute] - stored[compute]
    size = staging_bytes(streamed, spare, staging) if streamed else 0
    return replace(plan, staging_bytes=size, work_shares=_work_shares(plan, weights))


def shared_by_speed(plan: AllocationPlan, profile: HardwareProfile) -> AllocationPlan:
    """The plan with the work shared as fast as the devices compute; as it is where a speed is not known."""
    rates = {share.device: profile.flops_per_second.get(share.device, {}) for share in plan.work_shares}
    if not rates or not all(rates.values()):
        return plan
    weights = {device: Fraction(max(of_device.values())) for device, of_device in rates.items()}
    return replace(plan, work_shares=_work_shares(plan, weights))


def _computing(request: AllocationRequest, capacity: Capacity) -> tuple[str, ...]:
    """The compute device and those of its family that the request names; with `auto`, all."""
    compute = request.compute_device
    named = [*(share.device for share in request.shares), *request.donors]
    for device in named:
        capacity.require(device)
    family = compute.partition(":")[0]
    others = capacity.accelerators if request.mode is AllocationMode.AUTO else named
    return tuple(dict.fromkeys((compute, *(name for name in others if name.partition(":")[0] == family))))


def _fits(request: AllocationRequest, common: Capacity) -> bool:
    """Whether the request has said what is stored, or nothing needs to be streamed."""
    is_all_kept = not request.virtual_vram_bytes and common.movable_bytes <= common.free_bytes[common.compute_device]
    return request.is_explicit or is_all_kept


def _targets(
    request: AllocationRequest, room: Capacity, computing: tuple[str, ...]
) -> tuple[ByteTargets, Weights, list[str]]:
    """Bytes by device, with those that compute as one; their weights; and warnings."""
    if request.is_explicit:
        merged, weights = _merged(request, computing, room)
        targets, warnings = byte_targets(merged, room)
        return targets, weights, warnings
    kept, free = max(0, room.movable_bytes - request.virtual_vram_bytes), room.free_bytes[room.compute_device]
    warnings = []
    if kept > free and request.mode is AllocationMode.VIRTUAL_VRAM:
        more = readable_bytes(kept - free)
        warnings = [f"A GPU cannot store all weights that virtual VRAM leaves there: offloading {more} more."]
    storing = [device for device in request.donors if device not in computing]
    return fill(room, kept, dict.fromkeys((*storing, CPU))), dict.fromkeys(computing, Fraction(1)), warnings


def _merged(
    request: AllocationRequest, computing: tuple[str, ...], common: Capacity
) -> tuple[AllocationRequest, Weights]:
    """An explicit request with one share, the compute device's, for all that compute; and what each had of it."""
    compute = request.compute_device
    amounts = {share.device: share.amount for share in request.shares if share.device in computing}
    if request.mode is AllocationMode.FRACTION:
        amounts = {device: amount * common.total_bytes[device] for device, amount in amounts.items()}
    total = sum(amounts.values(), Fraction(0))
    if request.mode is AllocationMode.FRACTION:
        total /= common.total_bytes[compute]
    rest = next((share.device for share in request.shares if share.takes_rest and share.device in computing), None)
    shares = [Share(compute, total, takes_rest=rest is not None)] if amounts else []
    shares += [share for share in request.shares if share.device not in computing]
    if rest is not None:
        whole = 100 if request.mode is AllocationMode.RATIO else common.movable_bytes + common.head_bytes
        others = sum((share.amount for share in request.shares if share.device not in computing), Fraction(0))
        amounts[rest] += max(Fraction(0), whole - others - sum(amounts.values()))
    return replace(request, shares=tuple(shares)), {device: amounts.get(device, Fraction(0)) for device in computing}


def _work_shares(plan: AllocationPlan, weights: Weights) -> tuple[WorkShare, ...]:
    """The parts of the work, as bytes that sum to those that each device stores; none where one device computes."""
    if not any(weights.values()):
        return ()
    amounts = proportional(plan.compute_bytes, weights)
    shares = [WorkShare(d, size) for d, size in amounts.items() if size or d == plan.compute_device]
    return tuple(shares) if len(shares) > 1 else ()


def _room(capacity: Capacity, device: str) -> int:
    """What a computing device can store beside the heads, and what inference needs there as on the compute device."""
    if device == capacity.compute_device:
        return capacity.free_bytes[device]
    return max(0, capacity.free_bytes[device] - capacity.head_bytes - capacity.reserve_bytes)


@contextmanager
def _naming(tightest: str, common: Capacity) -> Iterator[None]:
    """What does not fit on the computing devices does not fit on the tightest: name that."""
    try:
        yield
    except PlanError as error:
        if error.device != common.compute_device:
            raise
        raise PlanError(tightest, error.needed_bytes, error.free_bytes, error.way_out) from None
