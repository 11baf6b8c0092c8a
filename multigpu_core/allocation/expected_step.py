"""What a user is shown of a plan's speed: a prediction, where one can be made."""

from __future__ import annotations

from multigpu.multigpu_core.devices import HardwareProfile

from .planner.plan import AllocationPlan
from .planner.step_time import StepPrediction, predict_step


def expected_step(plan: AllocationPlan, profile: HardwareProfile) -> StepPrediction | None:
    """The prediction for a plan; None on simulated devices, whose speed is that of the cpu, and on unknown ones."""
    if profile.is_simulated:
        return None
    try:
        return predict_step(plan, profile)
    except KeyError:  # a device of the plan that its driver hides at the moment
        return None
