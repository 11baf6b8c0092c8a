"""Warn of a split that moves nothing: the user asked for memory and gets none."""

from __future__ import annotations

from dataclasses import replace

from .inventory.inventory import BlockKind
from .language.request import AllocationMode, AllocationRequest
from .planner.plan import AllocationPlan


def warned_if_unmoved(plan: AllocationPlan, request: AllocationRequest) -> AllocationPlan:
    """The plan, with a warning where the request offloads weights and the plan offloads none."""
    if plan.work_shares or not _offloads(request) or any(placement.block.size_bytes for placement in plan.offloaded):
        return plan
    has_blocks = any(p.block.kind is not BlockKind.HEAD and p.block.size_bytes for p in plan.placements)
    if has_blocks and request.is_explicit:
        return plan  # the planner has named each device whose share is less than a block
    why = (
        "the amount is less than a block" if has_blocks else "it has no blocks, only single layers, which are not moved"
    )
    return replace(
        plan, warnings=(*plan.warnings, f"The split leaves the whole model on {plan.compute_device}: {why}.")
    )


def _offloads(request: AllocationRequest) -> bool:
    if request.mode is AllocationMode.VIRTUAL_VRAM:
        return request.virtual_vram_bytes > 0
    others = (share for share in request.shares if share.device != request.compute_device)
    return request.is_explicit and any(share.amount or share.takes_rest for share in others)
