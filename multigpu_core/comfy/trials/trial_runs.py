"""Run one model twice in this ComfyUI, on one device and split, from the same noise and prompt: `multigpu verify`."""

from __future__ import annotations

import gc
import statistics
import time
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from multigpu.multigpu_core.allocation.inventory.stored_size import tensor_bytes
from multigpu.multigpu_core.allocation.language.errors import AllocationError, PlanError
from multigpu.multigpu_core.comfy.host.compatibility import comfy_nodes, sample
from multigpu.multigpu_core.comfy.host.compatibility import model_management as mm
from multigpu.multigpu_core.comfy.host.loader_class import call_loader
from multigpu.multigpu_core.comfy.host.loader_outputs import ALL_BYTES, map_outputs
from multigpu.multigpu_core.devices import DeviceRegistry
from multigpu.multigpu_core.execution.parity import Difference, Parity, Run

from .made_up_inputs import UnknownInputsError, made_up_latent, made_up_prompt

ALL_ON_CPU = {"expert_mode_allocations": "cpu,100%", "strategy": "contiguous"}


class TrialError(RuntimeError):
    """The runs gave no result; the message says why and what to do."""


@dataclass(frozen=True)
class SplitTrial:
    """What is compared: a loader's node id and its inputs, where it computes, and the split node's widgets.

    `size_pixels` is the side of the picture. A step has no negative prompt: a relay computes prompt and negative prompt
    one after the other where one device takes them as a batch, and a batch is rounded otherwise.
    """

    loader: str
    inputs: dict[str, Any]
    compute_device: str
    split: dict[str, Any]
    steps: int = 3
    size_pixels: int = 512
    seed: int = 1


def compared(trial: SplitTrial, registry: DeviceRegistry) -> Parity:
    """Run the model whole on the compute device, then split, then whole again; the better time of the two counts.

    So neither the order of the runs nor what the first one warms up is to the credit of the split. Where the model does
    not fit whole, the reference is another split.

    Raises:
        TrialError: a run failed, or its output proves nothing.
        UnknownInputsError: nobody knows what prompt the model takes.
    """
    runs = _Runs(trial, registry)
    why_not_whole = ""
    try:
        reference, expected = runs.whole()
    except _NotWholeError as error:
        why_not_whole = str(error)
    if why_not_whole:
        reference, expected = runs.split("every block on cpu", ALL_ON_CPU)
    if not expected.isfinite().all() or expected.min() == expected.max():
        raise TrialError("The model produces no image from made-up inputs, so a comparison proves nothing.")
    try:
        split, found = runs.split("split", trial.split)
    except UnknownInputsError as error:  # it took them a moment ago
        raise TrialError(f"The split model cannot be run: {error.reason}") from error
    again, repeated = runs.split("again", ALL_ON_CPU) if why_not_whole else runs.whole()
    runs.unload()
    reference = replace(reference, step_seconds=min(reference.step_seconds, again.step_seconds))
    repeats = Difference.between(expected, repeated).is_none
    return Parity(trial.compute_device, reference, split, Difference.between(expected, found), repeats, why_not_whole)


class _NotWholeError(Exception):
    """The model is too large for the compute device alone."""


class _Runs:
    """The runs of one trial; each begins on devices that the one before has left, however it ended."""

    def __init__(self, trial: SplitTrial, registry: DeviceRegistry) -> None:
        self._trial = trial
        self._registry = registry
        self._device = registry.torch_device(trial.compute_device)
        self._module = getattr(torch, self._device.type, None)

    def whole(self) -> tuple[Run, Tensor]:
        self._start()
        device = self._trial.compute_device
        try:
            model = self._loaded("MultiGPU", {"device": device})
            seconds, output = self._sampled(model)
        except Exception as error:
            if mm.is_oom(error):
                raise _NotWholeError(f"{device} runs out of memory with the whole model") from None
            raise
        weights = Counter[str]()
        for weight in model.model.state_dict().values():
            weights[self._registry.name_of(weight.device)] += tensor_bytes(weight)
        if weights.keys() != {device}:
            raise _NotWholeError(f"the model does not fit whole on {device}")
        return Run("whole", seconds, self._peak_bytes(), dict(weights)), output

    def split(self, what: str, widgets: dict[str, Any]) -> tuple[Run, Tensor]:
        self._start()
        model = self._loaded("DisTorch2MultiGPU", {"compute_device": self._trial.compute_device, **widgets})
        seconds, output = self._sampled(model)
        residency = model.multigpu_placement.distribution.residency()
        if residency is None:
            raise TrialError("ComfyUI unloaded the split model while it was sampling: free memory and try again.")
        where = dict(residency.bytes_by_device)
        return Run(what, seconds, self._peak_bytes(), where, residency.plan.expert_string), output

    def unload(self) -> None:
        for device in {loaded.device for loaded in mm.current_loaded_models}:
            mm.free_memory(ALL_BYTES, device)
        gc.collect()
        self._registry.empty_cache(self._trial.compute_device)

    def _loaded(self, variant: str, widgets: dict[str, Any]) -> Any:
        node_id = f"{self._trial.loader}{variant}"
        node = comfy_nodes.NODE_CLASS_MAPPINGS.get(node_id)
        if node is None:
            raise TrialError(f"This ComfyUI has no node {node_id}: `multigpu doctor` and its log say why.")
        models: list[Any] = []
        try:
            map_outputs(call_loader(node, {**self._trial.inputs, **widgets}), lambda _, output: models.append(output))
        except (AllocationError, PlanError):
            raise
        except Exception as error:  # whatever a loader says of a file that it cannot read
            if mm.is_oom(error):
                raise
            raise TrialError(f"{node_id} cannot load it: {error}") from error
        return models[0]

    def _sampled(self, model: Any) -> tuple[float, Tensor]:
        """The median step without the first, which also warms up; and the latent."""
        trial, marks = self._trial, []
        positive, negative = (made_up_prompt(model.model, trial.seed + index) for index in range(2))
        latent = made_up_latent(model.model, trial.size_pixels)
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(trial.seed))

        def mark(*progress: Any) -> None:
            self._registry.synchronize(trial.compute_device)
            marks.append(time.perf_counter())

        try:
            output = sample.sample(
                model, noise, trial.steps, 1.0, "euler", "simple", positive, negative, latent,
                callback=mark, disable_pbar=True, seed=trial.seed,
            )  # fmt: skip
        except (RuntimeError, TypeError, KeyError, AttributeError, IndexError) as error:
            if mm.is_oom(error):
                raise
            raise UnknownInputsError(type(model.model).__name__, f"{type(error).__name__}: {error}") from error
        return statistics.median(later - earlier for earlier, later in pairwise(marks)), output.cpu()

    def _start(self) -> None:
        self.unload()
        reset = getattr(self._module, "reset_peak_memory_stats", None)
        if reset is not None:
            reset(self._device)

    def _peak_bytes(self) -> int | None:
        peak = getattr(self._module, "max_memory_allocated", None)
        return int(peak(self._device)) if peak is not None else None
