"""The additional models of a sampling: ControlNets compute where they were loaded, patches where the model does.

GLIGEN and the patches of nodes are called from inside the model's forward, with its tensors: no device of their own is
possible for them. Those that ComfyUI loads are loaded there (here), what others hold is copied there
(patch_tensors.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import structlog

from multigpu.multigpu_core.comfy.host.compatibility import patcher_extension, sampler_helpers
from multigpu.multigpu_core.comfy.host.loader_outputs import unload_model
from multigpu.multigpu_core.comfy.split.cond_batch import WRAPPER_KEY
from multigpu.multigpu_core.comfy.split.patcher import placement_of

from .controlnets import compute_where_loaded
from .patch_tensors import holdings_at
from .patches_at_home import patches_at

log = structlog.get_logger("multigpu")

_CLONES_FOR_OTHER_DEVICES = "multigpu"
"""ComfyUI's key for copies of a model on other cards, which are companions only by name."""


def serve_auxiliary_models(patcher: Any) -> None:
    """See to the devices of what every sampling by the patcher, or a clone of it, brings along; once is enough."""

    def prepare_sampling(executor: Any, model: Any, noise_shape: Any, conds: Any, *args: Any, **kwargs: Any) -> Any:
        for control in _in_conds(conds, "control"):
            compute_where_loaded(control)
        options = kwargs.get("model_options") or next(iter(args), None)
        for companion in dict.fromkeys(_companions(model, conds, options)):
            if companion.load_device != model.load_device:
                _bring(companion, model)
        return executor(model, noise_shape, conds, *args, **kwargs)

    def outer_sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
        guider = executor.class_obj
        device, model, options = guider.model_patcher.load_device, guider.model_patcher.model, guider.model_options
        with holdings_at(device, model, options), _computing_at_home(guider.model_patcher, options):
            return executor(*args, **kwargs)

    wrappers = patcher_extension.WrappersMP
    if patcher.get_wrappers(wrappers.PREPARE_SAMPLING, WRAPPER_KEY):
        return
    patcher.add_wrapper_with_key(wrappers.PREPARE_SAMPLING, WRAPPER_KEY, prepare_sampling)
    patcher.add_wrapper_with_key(wrappers.OUTER_SAMPLE, WRAPPER_KEY, outer_sample)


def _computing_at_home(patcher: Any, options: Mapping[str, Any]) -> AbstractContextManager[None]:
    placement = placement_of(patcher)
    is_relayed = placement is not None and placement.options.request.strategy.relays
    return patches_at(patcher.load_device, patcher.model, options) if is_relayed else nullcontext()


def _companions(model: Any, conds: Any, model_options: Mapping[str, Any] | None) -> Iterator[Any]:
    clones = {id(clone) for clone in model.get_additional_models_with_key(_CLONES_FOR_OTHER_DEVICES)}
    yield from (each for each in model.get_nested_additional_models() if id(each) not in clones)
    yield from model.model_patches_models()
    yield from (patcher for _, patcher, *_ in _in_conds(conds, "gligen"))
    yield from _in_conds(conds, "additional_models")
    yield from sampler_helpers.get_additional_models_from_model_options(model_options)


def _in_conds(conds: Mapping[str, Any], name: str) -> Iterator[Any]:
    for each in conds.values():
        yield from sampler_helpers.get_models_from_cond(each, name)


def _bring(companion: Any, model: Any) -> None:
    """Let a model that was loaded for another device be loaded on that of the model it serves."""
    unload_model(companion)
    name, served = type(companion.model).__name__, type(model.model).__name__
    log.warning(
        "companion_brought",
        message=f"{name} computes inside {served}, so it is loaded on {model.load_device} for it, not on "
        f"{companion.load_device}.",
        model=served,
        companion=name,
        devices=[str(model.load_device)],
    )
    companion.load_device = model.load_device
    if hasattr(companion, "register_load_device"):
        companion.register_load_device(model.load_device)
