"""Check that a plugin's plan is what the hook promises, before a byte moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .validation import PluginError

if TYPE_CHECKING:
    from multigpu.multigpu_core.allocation import AllocationPlan, AllocationRequest, Inventory
    from multigpu.multigpu_core.devices import DeviceInfo


def check_plan(
    plan: Any, name: str, inventory: Inventory, request: AllocationRequest, devices: Sequence[DeviceInfo]
) -> None:
    """Refuse a plan of the plugin `name` that cannot be carried out.

    Raises:
        PluginError: the first thing that is wrong with it.
    """
    free_bytes = {info.name: info.free_bytes for info in devices}
    faults = _faults(plan, inventory, request, free_bytes)
    if fault := next(faults, ""):
        raise PluginError(name, f"multigpu_plan_allocation {fault}.")


def _faults(
    plan: Any, inventory: Inventory, request: AllocationRequest, free_bytes: Mapping[str, int]
) -> Iterator[str]:
    # Imported here: these rooms need torch, and a list of plugins does not.
    from multigpu.multigpu_core.allocation import AllocationPlan, Placement, Strategy

    if type(plan) is not AllocationPlan:
        yield f"answered with a {type(plan).__name__}, which is no AllocationPlan"
        return
    if not isinstance(plan.placements, tuple) or not all(type(each) is Placement for each in plan.placements):
        yield "answered with placements that are no tuple of Placement"
        return
    if plan.compute_device != request.compute_device:
        yield f"computes on {plan.compute_device!r:.80}, and the request says {request.compute_device}"
    if type(plan.strategy) is not Strategy:
        yield f"has the strategy {plan.strategy!r:.80}, which is no Strategy"
    yield from _faults_of_blocks(plan, inventory)
    yield from _faults_of_devices(plan, free_bytes)
    yield from _faults_of_work(plan, free_bytes)
    yield from _faults_of_texts(plan)
    yield from _faults_of_staging(plan, free_bytes)


def _faults_of_blocks(plan: AllocationPlan, inventory: Inventory) -> Iterator[str]:
    placed = [placement.block for placement in plan.placements]
    if tuple(part for block in placed for part in block.parts) == inventory.by_layers.blocks:
        return
    counts = Counter(block.name for block in placed)
    for block in inventory.blocks:
        if counts[block.name] != 1:
            yield f"places the block {block.name} {counts[block.name]} times, and has to place each exactly once"
    known = {block.name: block for block in inventory.blocks}
    for block in placed:
        if known.get(block.name) != block:
            yield f"places a block {block.name!r:.80} that is not the inventory's, with its bytes and parameters"
    yield "places the blocks in another order than the inventory's, which is the order of execution"


def _faults_of_devices(plan: AllocationPlan, free_bytes: Mapping[str, int]) -> Iterator[str]:
    from multigpu.multigpu_core.allocation import BlockKind

    for placement in plan.placements:
        device, name = placement.device, placement.block.name
        if device not in free_bytes:
            yield f"places {name} on {device!r:.80}; the devices are {', '.join(free_bytes)}"
        if placement.block.kind is BlockKind.HEAD and device != plan.compute_device:
            yield f"places the head {name} on {device}, and heads stay on {plan.compute_device}"
        if type(placement.relayed) is not bool:
            yield f"says relayed={placement.relayed!r:.80} of {name}, which is no bool"
        if placement.relayed and not plan.strategy.relays:
            yield f"relays {name} with the strategy {plan.strategy.name}"
        if placement.relayed and device in (plan.compute_device, "cpu"):
            yield f"relays {name} on {device}, and only other accelerators relay"


def _faults_of_work(plan: AllocationPlan, free_bytes: Mapping[str, int]) -> Iterator[str]:
    from multigpu.multigpu_core.allocation import WorkShare

    shares = plan.work_shares
    if not isinstance(shares, tuple) or not all(type(each) is WorkShare for each in shares):
        yield "has work_shares that are no tuple of WorkShare"
        return
    devices = [share.device for share in shares]
    if shares and not plan.strategy.replicates:
        yield f"shares work with the strategy {plan.strategy.name}"
    if shares and (devices[0] != plan.compute_device or len(devices) != len(set(devices)) or len(devices) < 2):
        yield "shares work, and its work_shares are not the compute device's and those of others, each once"
    for share in shares:
        if share.device not in free_bytes or share.device == "cpu":
            yield f"gives work to {share.device!r:.80}, which is no accelerator of the request"
        if type(share.amount) is not int or share.amount < 0:
            yield f"gives {share.device} {share.amount!r:.80} of the work, which is no number of bytes"


def _faults_of_texts(plan: AllocationPlan) -> Iterator[str]:
    if not isinstance(plan.warnings, tuple) or not all(isinstance(warning, str) for warning in plan.warnings):
        yield "has warnings that are no tuple of texts"
    if not isinstance(plan.wish, str):
        yield "has a wish that is no text"


def _faults_of_staging(plan: AllocationPlan, free_bytes: Mapping[str, int]) -> Iterator[str]:
    staging = plan.staging_bytes
    if type(staging) is not int or staging < 0:
        yield f"keeps {staging!r:.80} bytes for staging, which is no number of bytes"
        return
    for device in (plan.compute_device, *plan.replica_devices):
        if staging and plan.compute_bytes + staging > free_bytes[device]:
            yield (
                f"keeps {staging} bytes for staging beside {plan.compute_bytes} bytes of blocks on {device}, which has "
                f"{free_bytes[device]} free"
            )
