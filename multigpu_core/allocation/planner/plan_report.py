"""A plan as JSON: what `multigpu plan --json` prints and the allocation editor shows."""

from __future__ import annotations

from typing import Any

from .plan import AllocationPlan, block_shares
from .step_time import StepPrediction


def plan_report(plan: AllocationPlan, prediction: StepPrediction | None) -> dict[str, Any]:
    """Sizes in bytes, times in seconds, None where nothing is predicted; blocks in execution order.

    A block on several devices is there once for each.
    """
    return {
        "strategy": plan.strategy.name,
        "fits": True,
        "compute_device": plan.compute_device,
        "expert_string": plan.expert_string,
        "bytes_by_device": dict(plan.bytes_by_device),
        "staging_bytes": plan.staging_bytes,
        "staging_reason": plan.staging_reason,
        "work_shares": {share.device: share.amount for share in plan.work_shares},
        "predicted_seconds": prediction.step_seconds if prediction is not None else None,
        "limit_seconds": prediction.limit_seconds if prediction is not None else None,
        "bound_by": prediction.bound_by if prediction is not None else None,
        "assumes": prediction.assumes if prediction is not None else "",
        "warnings": list(plan.warnings),
        "blocks": [
            {"name": share.name, "bytes": share.size_bytes, "device": share.device, "relayed": share.relayed}
            for share in block_shares(plan.placements)
        ],
    }
