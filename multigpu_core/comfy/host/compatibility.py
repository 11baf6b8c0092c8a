"""The parts of ComfyUI that our features need, checked at start-up: if one has changed, only its feature is off.

The functions that are replaced are in core_patches.py; these are called or overridden.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

import structlog

log = structlog.get_logger("multigpu")

SPLITTING_REFUSED = "Use the node's MultiGPU variant, or a ComfyUI that docs/compatibility.md names."


class Feature(Enum):
    """A feature, as it is called in a log line."""

    SPLITTING = "splitting models"
    AUXILIARY_MODELS = "ControlNets and model patches on another device than their model"
    ANY_NODE = "a device for nodes that load their own model"


@dataclass(frozen=True)
class ComfyUIName:
    """Something in ComfyUI, by module and dotted name, and the parameters that we give to it or take in its place."""

    module: str
    name: str
    parameters: tuple[str, ...] = ()

    @property
    def fault(self) -> str:
        """What is wrong with it in this ComfyUI; empty if nothing is."""
        found: object = importlib.import_module(self.module)
        for part in self.name.split("."):
            if not hasattr(found, part):
                return f"{self.module}.{self.name} is gone"
            found = getattr(found, part)
        if not self.parameters:
            return ""
        if not callable(found):
            return f"{self.module}.{self.name} is not a function"
        taken = inspect.signature(found).parameters
        lacking = [name for name in self.parameters if name not in taken]
        return f"{self.module}.{self.name} takes no {', '.join(lacking)}" if lacking else ""


def _patcher(name: str, *parameters: str) -> ComfyUIName:
    return ComfyUIName("comfy.model_patcher", f"ModelPatcher.{name}", parameters)


NAMES: dict[Feature, tuple[ComfyUIName, ...]] = {
    Feature.SPLITTING: (
        _patcher("clone"),
        _patcher("model_size"),
        _patcher("loaded_size"),
        _patcher("load", "device_to", "lowvram_model_memory", "force_patch_weights", "full_load"),
        _patcher("partially_load", "device_to", "extra_memory", "force_patch_weights"),
        _patcher("partially_unload", "device_to", "memory_to_free"),
        _patcher("patch_model", "load_weights"),
        _patcher("unpatch_model", "device_to", "unpatch_weights"),
        _patcher("patch_weight_to_device", "key", "device_to"),
        _patcher("patch_hooks", "hooks"),
        _patcher("unpatch_hooks"),
        _patcher("apply_hooks", "hooks", "force_apply"),
        _patcher("use_ejected", "skip_and_inject_on_exit_only"),
        _patcher("detach"),
        _patcher("get_all_callbacks", "call_type"),
        _patcher("add_wrapper_with_key", "wrapper_type", "key", "wrapper"),
        _patcher("remove_wrappers_with_key", "wrapper_type", "key"),
        ComfyUIName("comfy.model_patcher", "CoreModelPatcher"),
        ComfyUIName("comfy.memory_management", "aimdo_enabled"),
        ComfyUIName("comfy.patcher_extension", "CallbacksMP.ON_LOAD"),
        ComfyUIName("comfy.patcher_extension", "WrappersMP.OUTER_SAMPLE"),
        ComfyUIName("comfy.patcher_extension", "WrappersMP.APPLY_MODEL"),
        ComfyUIName("comfy.model_management", "free_memory", ("memory_required", "device", "keep_loaded")),
        ComfyUIName("comfy.model_management", "current_loaded_models"),
        ComfyUIName("comfy.sampler_helpers", "cleanup_models", ("conds", "models")),
        ComfyUIName("comfy.utils", "set_attr_param", ("obj", "attr", "value")),
        ComfyUIName("comfy.utils", "copy_to_param", ("obj", "attr", "value")),
    ),
    Feature.AUXILIARY_MODELS: (
        _patcher("get_additional_models_with_key", "key"),
        _patcher("get_nested_additional_models"),
        _patcher("model_patches_models"),
        _patcher("add_wrapper_with_key", "wrapper_type", "key", "wrapper"),
        _patcher("get_wrappers", "wrapper_type", "key"),
        ComfyUIName("comfy.patcher_extension", "WrappersMP.PREPARE_SAMPLING"),
        ComfyUIName("comfy.patcher_extension", "WrappersMP.OUTER_SAMPLE"),
        ComfyUIName("comfy.sampler_helpers", "get_models_from_cond", ("cond", "model_type")),
        ComfyUIName("comfy.sampler_helpers", "get_additional_models_from_model_options", ("model_options",)),
        ComfyUIName("comfy.controlnet", "ControlBase.pre_run", ("model",)),
        ComfyUIName("comfy.controlnet", "ControlNet.get_control", ("x_noisy", "t", "cond")),
        ComfyUIName("comfy.controlnet", "ControlNet.copy"),
    ),
    Feature.ANY_NODE: (
        ComfyUIName("comfy.model_management", "intermediate_device"),
        ComfyUIName("comfy.model_management", "load_models_gpu"),
        ComfyUIName("comfy.samplers", "CFGGuider.sample"),
        ComfyUIName("nodes", "NODE_CLASS_MAPPINGS"),
        ComfyUIName("nodes", "NODE_DISPLAY_NAME_MAPPINGS"),
        ComfyUIName("nodes", "LOADED_MODULE_DIRS"),
        ComfyUIName("server", "PromptServer.add_on_prompt_handler", ("handler",)),
    ),
}


def missing_features(features: Iterable[Feature] = Feature) -> dict[Feature, str]:
    """The features that cannot work in this ComfyUI, and why; one log line for each."""
    missing = {feature: faults for feature in features if (faults := "; ".join(_faults(NAMES[feature])))}
    for feature, faults in missing.items():
        message = f"This ComfyUI has changed: {faults}. That switches off {feature.value}; everything else works."
        log.warning("feature_missing", message=message, feature=feature.value, reason=faults)
    return missing


def _faults(names: Iterable[ComfyUIName]) -> Iterator[str]:
    yield from filter(None, (name.fault for name in names))
