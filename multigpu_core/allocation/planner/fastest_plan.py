"""Plan with a hardware profile: `auto` is the fastest plan found, and slow donors are reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import product

from multigpu.multigpu_core.allocation.inventory.inventory import Inventory
from multigpu.multigpu_core.allocation.language.errors import PlanError
from multigpu.multigpu_core.allocation.language.request import AllocationMode, AllocationRequest, Share
from multigpu.multigpu_core.devices import DeviceInfo, HardwareProfile
from multigpu.multigpu_core.strategies.strategy import Strategy

from .capacity import CPU, Capacity, measure_capacity
from .plan import AllocationPlan
from .planner import plan_allocation
from .replicated import shared_by_speed
from .staging_bytes import Staging
from .staging_choice import REASON, least_staged, staging_sizes, with_least_staging
from .step_time import link_to

_MOST_PARTS = 2000
"""The largest models have half as many layers; with more, trying plans takes longer than it can gain."""


def plan_with_profile(
    inventory: Inventory,
    request: AllocationRequest,
    devices: Sequence[DeviceInfo],
    reserve_bytes: Mapping[str, int],
    profile: HardwareProfile,
    staging: Staging = "auto",
) -> AllocationPlan:
    """As `plan_allocation`; in AUTO mode the plan with the shortest predicted step, and staging as small as it may be.

    There, donors whose link is slower than that of pinned host memory are passed over; where a request names one,
    the plan warns of it with both figures. The default strategy is free to choose: between cards of one model blocks
    may be relayed, where that is faster: they compute the same there, bit for bit. Another strategy's choice of blocks
    is kept.

    Raises:
        PlanError: a device cannot store what falls to it.
        DeviceError: the request names a device that is not in `devices`.
    """
    plan = plan_allocation(inventory, request, devices, reserve_bytes, staging)
    if request.compute_device == CPU:
        return plan  # host memory is no donor there, and nothing hides a transfer
    if request.strategy.replicates and not request.is_explicit:
        return shared_by_speed(plan, profile)
    if request.mode is not AllocationMode.AUTO:
        plan = replace(plan, warnings=(*plan.warnings, *_slow_donors(plan, profile)))
    if not plan.streamed or len(plan.placements) > _MOST_PARTS:
        return plan
    if plan.work_shares:
        return plan  # its staging is what the GPU with the least room has beside its replica
    capacity = measure_capacity(inventory, request, devices, reserve_bytes)
    if staging != "auto":
        plan = replace(plan, staging_reason=f"planner.staging is {staging}")
    if request.mode is not AllocationMode.AUTO:
        spare = capacity.free_bytes[request.compute_device] + capacity.head_bytes - plan.compute_bytes
        return with_least_staging(plan, profile, spare) if staging == "auto" else plan
    sizes = staging_sizes(plan) if staging == "auto" else [plan.staging_bytes]
    found = least_staged(list(_candidates(inventory, request, devices, capacity, profile, sizes)), profile)
    reason = plan.staging_reason or REASON
    return replace(found, warnings=plan.warnings, staging_reason=reason if found.streamed else "") if found else plan


def _candidates(
    inventory: Inventory,
    request: AllocationRequest,
    devices: Sequence[DeviceInfo],
    capacity: Capacity,
    profile: HardwareProfile,
    staging_sizes: Sequence[int],
) -> Iterator[AllocationPlan]:
    compute = request.compute_device
    names = {info.name: info.marketing_name for info in devices}
    twins = [name for name in capacity.accelerators if names[name] == names[compute]]
    ways = [(request.strategy, _useful_donors(capacity, profile))]
    if request.strategy.relays:
        ways = [(request.strategy, [*(name for name in capacity.accelerators if name != compute), CPU])]
    if twins and request.strategy == Strategy.INTERLEAVE:
        ways.append((Strategy.RELAY, [*twins, CPU]))
    free = capacity.free_bytes[compute]
    largest = max(part.size_bytes for part in inventory.by_layers.blocks)
    for (strategy, donors), staging in product(ways, staging_sizes):
        # A plan can come to half a layer more than its share: then the next smaller share.
        for less in (0, largest // 2, largest):
            kept = min(capacity.movable_bytes, max(0, free - staging - less))
            fitting = False
            for stored in _shares(capacity.movable_bytes - kept, donors, capacity, profile):
                shares = [Share(compute, Fraction(kept + capacity.head_bytes))]
                shares += [Share(device, Fraction(size)) for device, size in stored.items() if size]
                wish = replace(request, mode=AllocationMode.BYTES, shares=tuple(shares), strategy=strategy)
                plan = _plan_or_none(inventory, wish, devices, staging)
                if plan is not None and plan.compute_bytes + plan.staging_bytes <= free + capacity.head_bytes:
                    fitting = True
                    yield plan
            if fitting:
                break


def _plan_or_none(
    inventory: Inventory, request: AllocationRequest, devices: Sequence[DeviceInfo], staging: int
) -> AllocationPlan | None:
    try:
        return plan_allocation(inventory, request, devices, staging=staging)
    except PlanError:
        return None


def _useful_donors(capacity: Capacity, profile: HardwareProfile) -> list[str]:
    """Sources no slower than host memory, the fastest first, and the cpu; slower ones if not all fits there."""
    speed = {device: link_to(profile, device, capacity.compute_device).bytes_per_second for device in _donors(capacity)}
    by_speed = sorted(speed, key=lambda device: (-speed[device], device == CPU))
    useful = by_speed[: by_speed.index(CPU) + 1]
    least = capacity.movable_bytes - capacity.free_bytes[capacity.compute_device]
    return useful if sum(capacity.free_bytes[device] for device in useful) >= least else by_speed


def _donors(capacity: Capacity) -> list[str]:
    return [device for device in capacity.free_bytes if device != capacity.compute_device]


def _shares(
    wanted: int, donors: Sequence[str], capacity: Capacity, profile: HardwareProfile
) -> Iterator[dict[str, int]]:
    """The offloaded bytes by donor: the fastest filled first; and all of them in use at once, each as fast as it is."""
    capacity_of = {device: capacity.free_bytes.get(device, 0) for device in donors}
    filled, left = {}, wanted
    for device in donors:
        filled[device] = min(left, capacity_of[device])
        left -= filled[device]
    if left:
        return
    yield filled
    speed = {device: link_to(profile, device, capacity.compute_device).bytes_per_second for device in donors}
    total = sum(speed.values())
    side_by_side = {device: min(capacity_of[device], int(wanted * speed[device] / total)) for device in donors}
    side_by_side[donors[-1]] += wanted - sum(side_by_side.values())
    if side_by_side[donors[-1]] <= capacity_of[donors[-1]] and side_by_side != filled:
        yield side_by_side


def _slow_donors(plan: AllocationPlan, profile: HardwareProfile) -> Iterator[str]:
    """A sentence for each card that is a slower store than host memory, if its weights travel; no simulated one is."""
    if profile.is_simulated:
        return
    compute = plan.compute_device
    host = link_to(profile, CPU, compute).bytes_per_second
    for device in dict.fromkeys(placement.device for placement in plan.streamed):
        speed = link_to(profile, device, compute).bytes_per_second if device != CPU else host
        if speed < host:
            yield (
                f"Weights come from {device} at {speed / 1e9:.1f} GB/s and from host memory at {host / 1e9:.1f} GB/s: "
                f"store them on the cpu instead, or let {device} compute them (strategy relay)."
            )
