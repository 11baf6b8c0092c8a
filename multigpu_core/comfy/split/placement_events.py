"""Log events of a split model: planned, loaded, measured, demoted, unloaded."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from multigpu.multigpu_core.allocation import AllocationPlan, StepPrediction, plan_table, readable_bytes
from multigpu.multigpu_core.execution import Residency

log = structlog.get_logger("multigpu")


def log_planned(model: str, plan: AllocationPlan, prediction: StepPrediction | None) -> None:
    log.info(
        "split_planned",
        message=f"{model} is split\n{plan_table(plan, prediction)}",
        model=model,
        devices=list(plan.bytes_by_device),
        bytes_by_device=dict(plan.bytes_by_device),
        staging_bytes=plan.staging_bytes,
        expert_string=plan.expert_string,
        predicted_milliseconds=prediction.step_seconds * 1e3 if prediction is not None else None,
    )


def log_warning(model: str, warning: str) -> None:
    """What the planner warns of."""
    log.warning("split_warned", message=warning, model=model)


def log_loaded(model: str, blocks: int, found: Mapping[str, int], seconds: float) -> None:
    """`blocks` were moved in `seconds`; `found` is what each device stores now, in bytes."""
    log.info(
        "split_loaded",
        message=f"{model}: {blocks} blocks placed in {seconds:.2f} s: {_shares(found)}",
        model=model,
        blocks=blocks,
        devices=list(found),
        bytes_by_device=dict(found),
        milliseconds=seconds * 1e3,
    )


def log_steps(model: str, residency: Residency, prediction: StepPrediction | None) -> None:
    """What a step was predicted to take and what it took, for whoever doubts the one or the other."""
    if residency.step_seconds is None:
        return
    moved = readable_bytes(residency.step_transfer_bytes)
    predicted = f", {prediction.step_seconds:.3g} s predicted," if prediction is not None else ""
    log.info(
        "steps_measured",
        message=f"{model}: a step took {residency.step_seconds:.3g} s{predicted} and moved {moved}",
        model=model,
        devices=list(residency.bytes_by_device),
        step_transfer_bytes=residency.step_transfer_bytes,
        milliseconds=residency.step_seconds * 1e3,
        predicted_milliseconds=prediction.step_seconds * 1e3 if prediction is not None else None,
    )


def log_demoted(model: str, device: str, freed_bytes: int) -> None:
    log.info(
        "weights_demoted",
        message=f"{model}: moved {readable_bytes(freed_bytes)} from {device} to system memory for other models",
        model=model,
        devices=[device],
        freed_bytes=freed_bytes,
    )


def log_unloaded(model: str, found: Mapping[str, int]) -> None:
    log.info(
        "split_unloaded",
        message=f"{model} is unloaded; freed {_shares(found)}",
        model=model,
        devices=list(found),
        bytes_by_device=dict(found),
    )


def _shares(bytes_by_device: Mapping[str, int]) -> str:
    return ", ".join(f"{readable_bytes(size)} on {device}" for device, size in bytes_by_device.items() if size)
