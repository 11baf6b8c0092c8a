"""Plan with a hardware profile: `auto` is the fastest plan found, and slow donors are reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from multigpu.multigpu_core.allocation.inventory.inventory import Inventory
from multigpu.multigpu_core.allocation.language.errors import PlanError
from multigpu.multigpu_core.allocation.language.request import AllocationMode, AllocationRequest, Share
from multigpu.multigpu_core.devices import DeviceInfo, HardwareProfile
from multigpu.multigpu_core.strategies.strategy import Strategy

from .capacity import CPU, Capacity, measure_capacity
from .every_plan import every_plan
from .plan import AllocationPlan
from .planner import plan_allocation
from .replicated import shared_by_speed
from .staging_bytes import MOST_BLOCKS, staged_bytes
from .step_time import TOKENS, link_to, predict_step

_MOST_BLOCKS = 500
"""Real models have up to a hundred or so; with many more, trying plans takes longer than it can gain."""

_WORTHWHILE = 0.999
"""What a plan must gain if the bytes on each device do not tell it, so that no string can pin it."""

_KEPT_STEPS = 8
"""How many sizes of the compute device's share are tried: with less there, more is on its way in time."""


def plan_with_profile(
    inventory: Inventory,
    request: AllocationRequest,
    devices: Sequence[DeviceInfo],
    reserve_bytes: Mapping[str, int],
    profile: HardwareProfile,
    tokens: int = TOKENS,
) -> AllocationPlan:
    """As `plan_allocation`; in AUTO mode the plan with the shortest predicted step.

    There, donors whose link is slower than that of pinned host memory are passed over; where a request names one,
    the plan warns of it with both figures. The default strategy is free to choose: every plan is tried if there are few
    blocks, and between cards of one model blocks may be relayed, where that is faster: they compute the same there, bit
    for bit. Another strategy's choice of blocks is kept.

    Raises:
        PlanError: a device cannot store what falls to it.
        DeviceError: the request names a device that is not in `devices`.
    """
    plan = plan_allocation(inventory, request, devices, reserve_bytes)
    if request.compute_device == CPU:
        return plan  # host memory is no donor there, and nothing hides a transfer
    if request.strategy.replicates and not request.is_explicit:
        return shared_by_speed(plan, profile)
    if request.mode is not AllocationMode.AUTO:
        return replace(plan, warnings=(*plan.warnings, *_slow_donors(plan, profile)))
    if not plan.offloaded or len(inventory.blocks) > _MOST_BLOCKS:
        return plan
    capacity = measure_capacity(inventory, request, devices, reserve_bytes)

    def predict(each: AllocationPlan) -> float:
        return predict_step(each, profile, tokens).step_seconds

    best = min(_candidates(inventory, request, devices, capacity, profile), key=predict, default=None)
    if best is None:
        return plan
    if request.strategy == Strategy.INTERLEAVE:
        found = min(every_plan(plan, _useful_bytes(capacity, profile)), key=predict, default=best)
        if predict(found) < predict(best) * _WORTHWHILE:
            best = replace(found, wish="auto")
    return replace(best, warnings=plan.warnings)


def _candidates(
    inventory: Inventory,
    request: AllocationRequest,
    devices: Sequence[DeviceInfo],
    capacity: Capacity,
    profile: HardwareProfile,
) -> Iterator[AllocationPlan]:
    compute = request.compute_device
    names = {info.name: info.marketing_name for info in devices}
    twins = [name for name in capacity.accelerators if names[name] == names[compute]]
    ways = [(request.strategy, _useful_donors(capacity, profile))]
    if request.strategy.relays:
        ways = [(request.strategy, [*(name for name in capacity.accelerators if name != compute), CPU])]
    if twins and request.strategy == Strategy.INTERLEAVE:
        ways.append((Strategy.RELAY, [*twins, CPU]))
    for strategy, donors in ways:
        for kept in _kept_bytes(inventory, capacity):
            for stored in _shares(capacity.movable_bytes - kept, donors, capacity, profile):
                shares = [Share(compute, Fraction(kept + capacity.head_bytes))]
                shares += [Share(device, Fraction(size)) for device, size in stored.items() if size]
                wish = replace(request, mode=AllocationMode.BYTES, shares=tuple(shares), strategy=strategy)
                try:
                    plan = plan_allocation(inventory, wish, devices)
                except PlanError:
                    continue
                if plan.compute_bytes + plan.staging_bytes <= capacity.free_bytes[compute] + capacity.head_bytes:
                    yield plan


def _kept_bytes(inventory: Inventory, capacity: Capacity) -> Iterator[int]:
    """Shares of the compute device, beside one to three staged blocks and a little less each.

    A plan's blocks can come to half a block more than its share: the least shares leave room for that.
    """
    free = capacity.free_bytes[capacity.compute_device]
    largest = max(map(staged_bytes, inventory.blocks))
    tried = {max(0, free - places * largest) for places in range(1, MOST_BLOCKS + 1)}
    average = capacity.movable_bytes // len(inventory.blocks)
    most, least = max(tried), min(tried)
    tried |= {max(0, least - step * average // 2) for step in (1, 2)}
    tried |= {most - step * average // 2 for step in range(_KEPT_STEPS) if most > step * average // 2}
    yield from sorted((size for size in tried if size <= capacity.movable_bytes), reverse=True)


def _useful_donors(capacity: Capacity, profile: HardwareProfile) -> list[str]:
    """Sources no slower than host memory, the fastest first, and the cpu; slower ones if not all fits there."""
    speed = {device: link_to(profile, device, capacity.compute_device).bytes_per_second for device in _donors(capacity)}
    by_speed = sorted(speed, key=lambda device: (-speed[device], device == CPU))
    useful = by_speed[: by_speed.index(CPU) + 1]
    least = capacity.movable_bytes - capacity.free_bytes[capacity.compute_device]
    return useful if sum(capacity.free_bytes[device] for device in useful) >= least else by_speed


def _useful_bytes(capacity: Capacity, profile: HardwareProfile) -> dict[str, int]:
    """What the compute device and its useful donors can store; heads and staging included."""
    useful = {device: capacity.free_bytes[device] for device in _useful_donors(capacity, profile)}
    useful[capacity.compute_device] = capacity.free_bytes[capacity.compute_device] + capacity.head_bytes
    return useful


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
    """A sentence for each card that is a slower store than host memory, if its weights travel."""
    compute = plan.compute_device
    host = link_to(profile, CPU, compute).bytes_per_second
    for device in dict.fromkeys(placement.device for placement in plan.streamed):
        speed = link_to(profile, device, compute).bytes_per_second if device != CPU else host
        if speed < host:
            yield (
                f"Weights come from {device} at {speed / 1e9:.1f} GB/s and from host memory at {host / 1e9:.1f} GB/s: "
                f"store them on the cpu instead, or let {device} compute them (strategy relay)."
            )
