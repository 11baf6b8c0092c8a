"""Distribute a step's work over a replicated model's devices: cond and uncond, or the images of a batch.

    calc_cond_batch   each prompt (cond, uncond) is computed by ComfyUI's own function, on the device that has it
    apply_model       what is left for one device: prompts that ComfyUI has batched, or the images of one prompt

A step is what ComfyUI makes of it with little memory, bit for bit. What another extension may see of a step, or keeps
from one call to the next, is computed on the compute device alone, and the log says why.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
import torch
from torch import Tensor

from multigpu.multigpu_core.comfy.host.compatibility import model_management as mm
from multigpu.multigpu_core.comfy.host.compatibility import patcher_extension
from multigpu.multigpu_core.execution import DistributionError, Job, Replicas, work_for

from .cond_batch import WRAPPER_KEY, ModelCall, calls_other_extensions

if TYPE_CHECKING:
    from .placement import ModelPlacement

log = structlog.get_logger("multigpu")

Conds = Sequence["list[dict[str, Any]] | None"]
CORES_OWN_SPLIT = "multigpu_clones"
"""ComfyUI's key for the copies of a model that its node MultiGPU CFG Split has made."""
_OF_THE_WHOLE = {
    "hooks": "a prompt changes the model's weights (hooks)",
    "gligen": "a prompt has GLIGEN boxes",
    "default": "a prompt is the default one for what others leave",
}


def run_on_replicas(patcher: Any, placement: ModelPlacement) -> None:
    """Let the patcher, and all its clones, compute each step on all devices of the placement's plan."""
    work = _Work(placement)
    kinds = patcher_extension.WrappersMP
    patcher.add_wrapper_with_key(kinds.CALC_COND_BATCH, WRAPPER_KEY, work.calc_cond_batch)
    patcher.add_wrapper_with_key(kinds.APPLY_MODEL, WRAPPER_KEY, work.apply_model)


@dataclass(frozen=True)
class _Prompts:
    """What ComfyUI's `calc_cond_batch` is asked, for the prompts of one device."""

    conds: Mapping[int, Any]
    """By their place among all: entries with the values of their conditions in the place of these."""
    x: Tensor
    timestep: Tensor
    transformer_options: Mapping[str, Any]


class _Work:
    """The wrappers of one model."""

    def __init__(self, placement: ModelPlacement) -> None:
        self._placement = placement
        self._told: set[str] = set()

    def calc_cond_batch(
        self, executor: Any, model: Any, conds: Conds, x: Tensor, timestep: Tensor, model_options: dict[str, Any]
    ) -> list[Tensor]:
        def alone() -> list[Tensor]:
            outputs: list[Tensor] = executor(model, conds, x, timestep, model_options)
            return outputs

        asked = [index for index, cond in enumerate(conds) if cond]
        replicas = self._replicas_of(model)
        if (
            replicas is None
            or len(asked) < 2
            or any("control" in entry for index in asked for entry in conds[index] or ())
        ):
            return alone()
        work = work_for(len(asked), replicas.shares)
        if len(work) < 2 or not self._may_divide(conds, model, model_options):
            return alone()

        def compute(module: Any, given: _Prompts) -> dict[int, Tensor]:
            options = {**model_options, "transformer_options": given.transformer_options}
            outputs = {}
            for place, values in given.conds.items():
                single: list[Any] = [None] * len(conds)
                single[place] = _with_values(conds[place] or (), values)
                outputs[place] = executor(module, single, given.x, given.timestep, options)[place]
            return outputs

        options = model_options.get("transformer_options", {})
        jobs = {}
        for device, items in work.items():
            values = {asked[item]: _values(conds[asked[item]] or ()) for item in items}
            jobs[device] = Job(compute, _Prompts(values, x, timestep, dict(options)))
        found = self._run(replicas, jobs, ("prompts", tuple(x.shape), len(asked)))
        if found is None:
            return alone()
        outputs = {place: output for of_device in found.values() for place, output in of_device.items()}
        return [outputs[place] if place in outputs else torch.zeros_like(x) for place in range(len(conds))]

    def apply_model(self, executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        *tensors, transformer_options = args
        call = ModelCall(tuple(tensors), kwargs, transformer_options)
        replicas = self._replicas_of(executor.class_obj)
        work = work_for(call.parts, replicas.shares) if replicas is not None else {}
        if replicas is None or len(work) < 2 or not self._may_call(call, executor.class_obj):
            return call.run(executor)
        end = 0
        jobs = {}
        for device, items in work.items():
            begin, end = end, end + len(items)
            run = partial(_run, executor) if device == 0 else _run_on_replica
            jobs[device] = Job(run, call.part(begin, end))
        found = self._run(replicas, jobs, ("batch", call.shapes))
        return call.run(executor) if found is None else torch.cat(list(found.values()))

    def _replicas_of(self, model: Any) -> Replicas | None:
        """The replicas for a call of the model; None where it is a replica's call, or a part of what they do."""
        replicas = self._placement.distribution.replicas
        is_ours = model is self._placement.distribution.module  # and no copy of it for another device
        return replicas if replicas is not None and is_ours and not replicas.are_working else None

    def _may_divide(self, conds: Conds, model: Any, model_options: Mapping[str, Any]) -> bool:
        """Whether each prompt can be computed without the others; if not, the log says why."""
        patcher = model.current_patcher
        entries = [entry for cond in conds for entry in cond or ()]
        reasons = [reason for key, reason in _OF_THE_WHOLE.items() if any(key in entry for entry in entries)]
        if not all(hasattr(value, "cond") for entry in entries for value in entry.get("model_conds", {}).values()):
            reasons.append("a prompt has conditions of an unknown kind")
        if getattr(patcher, "current_hooks", None) is not None:
            reasons.append("hooks have changed the model's weights")
        options = model_options.get("transformer_options", {})
        kinds = patcher_extension.WrappersMP
        wraps_prompts = calls_other_extensions(
            options, (kinds.CALC_COND_BATCH, kinds.APPLY_MODEL, kinds.DIFFUSION_MODEL)
        )
        if wraps_prompts or "model_function_wrapper" in model_options or _has_callbacks(patcher):
            reasons.append("another node has set functions into the model")
        if CORES_OWN_SPLIT in model_options:
            reasons.append("ComfyUI's MultiGPU CFG Split has copies of it")
        return self._is_free(reasons)

    def _may_call(self, call: ModelCall, model: Any) -> bool:
        model_options = getattr(model.current_patcher, "model_options", {})
        is_foreign = call.calls_other_extensions or "model_function_wrapper" in model_options
        return self._is_free(["another node has set functions into the model"] if is_foreign else [])

    def _is_free(self, reasons: Sequence[str]) -> bool:
        for reason in (each for each in reasons if each not in self._told):
            self._told.add(reason)
            name, device = self._placement.name, self._placement.options.request.compute_device
            message = f"{name}: steps are computed on {device} alone, because {reason}."
            log.info("computing_alone", message=message, model=name, devices=[device], reason=reason)
        return not reasons

    def _run(self, replicas: Replicas, jobs: Mapping[int, Job], kind: Any) -> dict[int, Any] | None:
        """The results of all jobs; None where a device has failed, or the replicas cannot follow the model."""
        if not replicas.are_like_the_model() and not self._renewed():
            return None
        try:
            return replicas.run(jobs, kind)
        except Exception as error:
            compute = self._placement.options.request.compute_device
            is_users = mm.is_oom(error) or isinstance(error, mm.InterruptProcessingException)
            if is_users or replicas.failed_on in (None, compute):
                raise
            failed, reason = replicas.failed_on, repr(error)
        # Only now is the error gone, and with it what its frames held on the devices.
        self._give_up(failed or "", reason)
        return None

    def _renewed(self) -> bool:
        """Bring to the replicas what has changed of the model since it was loaded."""
        try:
            self._placement.distribution.serve(dict(self._placement.distribution.served_devices))
        except DistributionError:
            return self._is_free(["another extension has moved its weights"])
        return True

    def _give_up(self, device: str, reason: str) -> None:
        self._placement.distribution.settle()
        self._placement.distribution.compute_alone()
        name, compute = self._placement.name, self._placement.options.request.compute_device
        message = f"{name}: {device} failed ({reason}). {compute} goes on alone until the model is loaded again."
        log.warning("replica_failed", message=message, model=name, devices=[device], error=reason)


def _run(model: Callable[..., Tensor], _: Any, call: ModelCall) -> Tensor:
    return call.run(model)


def _run_on_replica(module: Any, call: ModelCall) -> Tensor:
    return call.run(module.apply_model)


def _values(cond: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The entries of a prompt with the value of each of its conditions in the condition's place."""
    return [
        {**entry, "model_conds": {name: value.cond for name, value in entry.get("model_conds", {}).items()}}
        for entry in cond
    ]


def _with_values(cond: Sequence[Mapping[str, Any]], values: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The opposite: a prompt like `cond`, with conditions that have these values."""
    entries = []
    for entry, of_entry in zip(cond, values, strict=True):
        conditions = {name: copy.copy(value) for name, value in entry.get("model_conds", {}).items()}
        for name, value in conditions.items():
            value.cond = of_entry["model_conds"][name]
        entries.append({**of_entry, "model_conds": conditions} if "model_conds" in entry else dict(of_entry))
    return entries


def _has_callbacks(patcher: Any) -> bool:
    return bool(patcher.get_all_callbacks(patcher_extension.CallbacksMP.ON_PREPARE_STATE))
