"""Every name of ComfyUI that we depend on, and what is off where a name is gone or has changed.

This is the one file to change for another version of ComfyUI: everything else reaches ComfyUI through the modules at
the end. Where a name has moved, its entry says where to (`moved_to`): also to a function in this file, which calls
ComfyUI in the new way.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any

import structlog

from .comfyui_names import WAY_OUT, ComfyUIModule, ComfyUIName

log = structlog.get_logger("multigpu")

SPLITTING_REFUSED = "Use the node's MultiGPU variant, or a ComfyUI that docs/compatibility.md names."


class Feature(Enum):
    """A feature, as it is called in a log line and by `multigpu doctor`."""

    EXTENSION = "this extension"
    SPLITTING = "splitting models"
    AUXILIARY_MODELS = "ControlNets and model patches on another device than their model"
    ANY_NODE = "a device for nodes that load their own model"
    KEEPING = "keep_loaded"
    IDLE_WORK = "unloading from the panel, and unloading kept models that are unused"
    HOST_MEMORY = "clearing cached outputs when system memory runs low"
    DEVICE_CHOICE = "loading every model directly on its chosen device (some may pass through ComfyUI's own)"
    UNLOADING_WITH_GARBAGE = "keeping ComfyUI's prompt worker alive when it unloads an unused model"
    COMPILER = "keeping Comfy Compiler away from split models (start ComfyUI with --disable-comfy-compiler)"
    EMPTYING_CACHES = "freeing cached memory on devices other than ComfyUI's own"
    GPU_ONLY = "--gpu-only for models on other devices than ComfyUI's own"
    CPU_FLAG = "--cpu for our nodes"
    DIRECTML_FLAG = "--directml for our nodes"
    CUDA_DEVICE_FLAG = "hints about --cuda-device"
    V3_LOADERS = "nodes for loaders that are written with ComfyUI's V3 API"
    PACK_DEVICES = "nodes for packs that keep their offload device in globals"
    PACK_PLUGINS = "plugins inside node packs, and warnings of a second MultiGPU extension"
    PACK_STATES = "versions and states of node packs in the report"
    TITLES = "ComfyUI's own titles of loaders in the titles of our nodes"
    PANEL = "the panel and the allocation editor"
    LATE_NODES = "nodes for packs that ComfyUI loads after this extension"
    PREVIEW = "plans in the allocation editor"
    DAMAGED_FILES = "naming the damaged file when a load fails"
    VERIFY = "multigpu verify"
    USER_FOLDER = "settings and log file in ComfyUI's user folder"
    PROMPT_IDS = "prompt ids in the log"
    NODE_IDS = "node ids in the panel"
    PINNED_BUDGET = "one budget with ComfyUI for pinned memory"
    MACHINES = "text encoders and VAEs on devices of other machines"
    DOCTOR_FLAGS = "what multigpu doctor says of DynamicVRAM"


F = Feature


def _patcher(name: str, *parameters: str, features: tuple[Feature, ...] = (F.SPLITTING,)) -> ComfyUIName:
    return ComfyUIName("comfy.model_patcher", f"ModelPatcher.{name}", features, parameters)


def _memory(name: str, *features: Feature, parameters: tuple[str, ...] = ()) -> ComfyUIName:
    return ComfyUIName("comfy.model_management", name, features, parameters)


def _replaced(name: str, feature: Feature, module: str = "comfy.model_management") -> ComfyUIName:
    return ComfyUIName(module, name, (feature,), is_replaced=True)


def _optional(module: str, name: str, feature: Feature) -> ComfyUIName:
    return ComfyUIName(module, name, (feature,), is_optional=True)


def _flag(name: str, feature: Feature) -> ComfyUIName:
    return ComfyUIName("comfy.cli_args", f"args.{name}", (feature,))


NAMES: tuple[ComfyUIName, ...] = (
    # Nodes, models, devices: nothing works without these.
    ComfyUIName("nodes", "NODE_CLASS_MAPPINGS", (F.EXTENSION,)),
    ComfyUIName("comfy.model_patcher", "ModelPatcher", (F.EXTENSION,)),
    _patcher("is_clone", features=(F.EXTENSION,)),
    _memory("LoadedModel.model", F.EXTENSION),
    _memory("LoadedModel.model_loaded_memory", F.EXTENSION),
    _memory("get_torch_device", F.EXTENSION),
    _memory("current_loaded_models", F.EXTENSION),
    _memory("free_memory", F.EXTENSION, parameters=("memory_required", "device", "keep_loaded")),
    # Patchers: what split models override and call.
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
    _patcher("eject_model"),
    _patcher("detach"),
    _patcher("get_all_callbacks", "call_type"),
    _patcher("remove_wrappers_with_key", "wrapper_type", "key"),
    _patcher("add_wrapper_with_key", "wrapper_type", "key", "wrapper", features=(F.SPLITTING, F.AUXILIARY_MODELS)),
    _patcher("is_dynamic"),
    _optional("comfy.model_patcher", "ModelPatcher.deepclone_multigpu", F.SPLITTING),
    _optional("comfy.model_patcher", "ModelPatcher.register_load_device", F.DEVICE_CHOICE),
    ComfyUIName("comfy.model_patcher", "wipe_lowvram_weight", (F.SPLITTING,), ("m",)),
    # Loading and sampling split models.
    ComfyUIName("comfy.model_patcher", "CoreModelPatcher", (F.SPLITTING,)),
    ComfyUIName("comfy.memory_management", "aimdo_enabled", (F.SPLITTING,)),
    ComfyUIName("comfy.patcher_extension", "CallbacksMP.ON_LOAD", (F.SPLITTING,)),
    ComfyUIName("comfy.patcher_extension", "CallbacksMP.ON_PREPARE_STATE", (F.SPLITTING,)),
    ComfyUIName("comfy.patcher_extension", "WrappersMP.APPLY_MODEL", (F.SPLITTING,)),
    ComfyUIName("comfy.patcher_extension", "WrappersMP.CALC_COND_BATCH", (F.SPLITTING,)),
    ComfyUIName("comfy.patcher_extension", "WrappersMP.DIFFUSION_MODEL", (F.SPLITTING,)),
    ComfyUIName("comfy.patcher_extension", "WrappersMP.OUTER_SAMPLE", (F.SPLITTING, F.AUXILIARY_MODELS)),
    ComfyUIName("comfy.patcher_extension", "WrappersMP.PREPARE_SAMPLING", (F.SPLITTING, F.AUXILIARY_MODELS)),
    ComfyUIName("comfy.sampler_helpers", "cleanup_models", (F.SPLITTING,), ("conds", "models")),
    ComfyUIName("comfy.utils", "set_attr_param", (F.SPLITTING,), ("obj", "attr", "value")),
    ComfyUIName("comfy.utils", "copy_to_param", (F.SPLITTING,), ("obj", "attr", "value")),
    ComfyUIName("comfy.utils", "ProgressBar", (F.SPLITTING,), ("total",)),
    _memory("InterruptProcessingException", F.SPLITTING),
    _memory("loaded_models", F.SPLITTING),
    _memory("soft_empty_cache", F.SPLITTING, F.IDLE_WORK),
    _memory("minimum_inference_memory", F.SPLITTING, F.PREVIEW),
    _memory("is_oom", F.SPLITTING, F.KEEPING, F.VERIFY, parameters=("e",)),
    # ControlNets and patches.
    _patcher("get_additional_models_with_key", "key", features=(F.AUXILIARY_MODELS,)),
    _patcher("get_nested_additional_models", features=(F.AUXILIARY_MODELS,)),
    _patcher("model_patches_models", features=(F.AUXILIARY_MODELS,)),
    _patcher("get_wrappers", "wrapper_type", "key", features=(F.AUXILIARY_MODELS,)),
    ComfyUIName("comfy.sampler_helpers", "get_models_from_cond", (F.AUXILIARY_MODELS,), ("cond", "model_type")),
    ComfyUIName(
        "comfy.sampler_helpers",
        "get_additional_models_from_model_options",
        (F.AUXILIARY_MODELS,),
        ("model_options",),
    ),
    ComfyUIName("comfy.controlnet", "ControlBase.pre_run", (F.AUXILIARY_MODELS,), ("model",)),
    ComfyUIName("comfy.controlnet", "ControlNet.get_control", (F.AUXILIARY_MODELS,), ("x_noisy", "t", "cond")),
    ComfyUIName("comfy.controlnet", "ControlNet.copy", (F.AUXILIARY_MODELS,)),
    # Functions that core_patches.py replaces.
    _replaced("get_torch_device", F.DEVICE_CHOICE),
    _replaced("text_encoder_device", F.DEVICE_CHOICE),
    _replaced("vae_device", F.DEVICE_CHOICE),
    _replaced("unet_offload_device", F.DEVICE_CHOICE),
    _replaced("text_encoder_offload_device", F.DEVICE_CHOICE),
    _replaced("vae_offload_device", F.DEVICE_CHOICE),
    _replaced("unet_inital_load_device", F.DEVICE_CHOICE),  # ComfyUI's spelling
    _replaced("text_encoder_initial_device", F.DEVICE_CHOICE),
    _replaced("intermediate_device", F.GPU_ONLY),
    _replaced("free_memory", F.UNLOADING_WITH_GARBAGE),
    _replaced("soft_empty_cache", F.EMPTYING_CACHES),
    _replaced("unload_all_models", F.KEEPING),
    _replaced("PromptExecutor.reset", F.KEEPING, "execution"),
    _replaced("PromptQueue.get", F.IDLE_WORK, "execution"),
    ComfyUIName(  # from 0.35 on
        "comfy.model_prefetch",
        "malloc_graph_enabled",
        (F.COMPILER,),
        is_replaced=True,
        only_with="comfy.cli_args:args.disable_comfy_compiler",
    ),
    # Nodes that load their own model.
    _memory("intermediate_device", F.ANY_NODE),
    _memory("load_models_gpu", F.ANY_NODE),
    ComfyUIName("comfy.samplers", "CFGGuider.sample", (F.ANY_NODE,)),
    ComfyUIName("server", "PromptServer.add_on_prompt_handler", (F.ANY_NODE,), ("handler",)),
    # Nodes and packs.
    ComfyUIName("nodes", "NODE_DISPLAY_NAME_MAPPINGS", (F.TITLES, F.ANY_NODE)),
    ComfyUIName("nodes", "LOADED_MODULE_DIRS", (F.PACK_STATES, F.ANY_NODE)),
    ComfyUIName("comfy_api.internal", "first_real_override", (F.V3_LOADERS,), ("cls", "name")),
    ComfyUIName("comfy_api.latest", "io.Hidden", (F.V3_LOADERS,)),
    _memory("unet_offload_device", F.PACK_DEVICES),
    # Files and folders.
    ComfyUIName("folder_paths", "get_user_directory", (F.USER_FOLDER,)),
    ComfyUIName("folder_paths", "get_folder_paths", (F.PACK_PLUGINS, F.PACK_STATES), ("folder_name",)),
    ComfyUIName("folder_paths", "folder_names_and_paths", (F.KEEPING, F.PREVIEW, F.DAMAGED_FILES)),
    ComfyUIName("folder_paths", "get_full_path", (F.KEEPING, F.PREVIEW, F.DAMAGED_FILES), ("folder_name", "filename")),
    ComfyUIName("folder_paths", "get_filename_list", (F.PREVIEW, F.DAMAGED_FILES), ("folder_name",)),
    # The server and what it executes.
    ComfyUIName(
        "server", "PromptServer", (F.PANEL, F.LATE_NODES, F.IDLE_WORK, F.HOST_MEMORY, F.PROMPT_IDS, F.ANY_NODE)
    ),
    ComfyUIName("server", "PromptServer.send_sync", (F.PANEL,), ("event", "data")),
    ComfyUIName("execution", "PromptQueue.get_tasks_remaining", (F.PANEL, F.IDLE_WORK, F.HOST_MEMORY)),
    ComfyUIName("execution", "PromptQueue.get_flags", (F.HOST_MEMORY,), ("reset",)),
    ComfyUIName("execution", "PromptQueue.set_flag", (F.HOST_MEMORY,)),
    ComfyUIName("server", "create_origin_only_middleware", (F.PANEL,)),
    ComfyUIName("comfy_execution.utils", "get_executing_context", (F.KEEPING, F.NODE_IDS)),
    # Flags, and what they decide.
    _flag("enable_cors_header", F.PANEL),
    _flag("gpu_only", F.GPU_ONLY),
    _flag("cuda_device", F.CUDA_DEVICE_FLAG),
    _flag("disable_all_custom_nodes", F.PACK_STATES),
    _flag("whitelist_custom_nodes", F.PACK_STATES),
    _memory("cpu_mode", F.CPU_FLAG),
    _memory("is_directml_enabled", F.DIRECTML_FLAG),
    # Pinned memory, in versions that pin.
    _optional("comfy.model_management", "ensure_pin_registerable", F.PINNED_BUDGET),
    _optional("comfy.model_management", "TOTAL_PINNED_MEMORY", F.PINNED_BUDGET),
    _optional("comfy.model_management", "MAX_PINNED_MEMORY", F.PINNED_BUDGET),
    # Models on other machines: what home uses of its ComfyUI, and a worker of the same code.
    ComfyUIName("comfy.sd", "load_clip", (F.MACHINES,), ("ckpt_paths", "clip_type", "model_options")),
    ComfyUIName("comfy.sd", "CLIPType", (F.MACHINES,)),
    ComfyUIName("comfy.sd", "VAE", (F.MACHINES,), ("sd", "device", "metadata")),
    ComfyUIName("comfy.sd", "CLIP.clone", (F.MACHINES,)),
    ComfyUIName("comfy.sd", "CLIP.tokenize", (F.MACHINES,), ("text",)),
    ComfyUIName("comfy.sd", "CLIP.encode_from_tokens", (F.MACHINES,), ("tokens",)),
    ComfyUIName("comfy.sd", "CLIP.encode_from_tokens_scheduled", (F.MACHINES,), ("tokens",)),
    ComfyUIName("comfy.sd", "VAE.decode", (F.MACHINES,)),
    ComfyUIName("comfy.sd", "VAE.encode", (F.MACHINES,), ("pixel_samples",)),
    ComfyUIName("comfy.utils", "load_torch_file", (F.MACHINES,), ("return_metadata",)),
    _memory("processing_interrupted", F.MACHINES),
    _memory("throw_exception_if_processing_interrupted", F.MACHINES),
    _memory("cleanup_models_gc", F.MACHINES),
    _optional("comfy.cli_args", "PerformanceFeature", F.MACHINES),
    # The command line.
    ComfyUIName("comfy.sample", "sample", (F.VERIFY,), ("callback", "disable_pbar", "seed")),
    ComfyUIName("folder_paths", "add_model_folder_path", (F.VERIFY,), ("is_default",)),
    _optional("comfy.cli_args", "enables_dynamic_vram", F.DOCTOR_FLAGS),
)

REPLACED = {each.name: each for each in NAMES if each.is_replaced}
"""The functions that core_patches.py replaces, by their dotted names."""

cli_args = ComfyUIModule("comfy.cli_args", NAMES)
controlnet = ComfyUIModule("comfy.controlnet", NAMES)
model_management = ComfyUIModule("comfy.model_management", NAMES)
model_patcher = ComfyUIModule("comfy.model_patcher", NAMES)
patcher_extension = ComfyUIModule("comfy.patcher_extension", NAMES)
sample = ComfyUIModule("comfy.sample", NAMES)
sampler_helpers = ComfyUIModule("comfy.sampler_helpers", NAMES)
comfy_sd = ComfyUIModule("comfy.sd", NAMES)
comfy_utils = ComfyUIModule("comfy.utils", NAMES)
comfy_api = ComfyUIModule("comfy_api.latest", NAMES)
comfy_api_internal = ComfyUIModule("comfy_api.internal", NAMES)
comfy_execution_utils = ComfyUIModule("comfy_execution.utils", NAMES)
folder_paths = ComfyUIModule("folder_paths", NAMES)
comfy_nodes = ComfyUIModule("nodes", NAMES)
server = ComfyUIModule("server", NAMES)


class UnsupportedComfyUIError(RuntimeError):
    """This ComfyUI lacks something without which nothing of this extension works."""


def missing_features(names: Iterable[ComfyUIName] = NAMES) -> dict[Feature, str]:
    """The features that cannot work in this ComfyUI, and why; one log line for each.

    Raises:
        UnsupportedComfyUIError: nothing can work.
    """
    faults: dict[Feature, list[str]] = {}
    for name in names:
        if fault := name.fault:
            for feature in name.features:
                faults.setdefault(Feature(feature), []).append(fault)
    missing = {feature: "; ".join(faults[feature]) for feature in Feature if feature in faults}
    if Feature.EXTENSION in missing:
        raise UnsupportedComfyUIError(f"This ComfyUI has changed: {missing[Feature.EXTENSION]}. {WAY_OUT}")
    for feature, reason in missing.items():
        message = f"This ComfyUI has changed: {reason}. That switches off {feature.value}; everything else works."
        log.warning("feature_missing", message=message, feature=feature.value, reason=reason)
    return missing


def declared(name: str) -> ComfyUIName:
    """The entry of the list for a module and dotted name."""
    return next(each for each in NAMES if str(each) == name)


def flag(name: str) -> Any:
    """The value of one of ComfyUI's flags; None where this ComfyUI has no such flag."""
    return getattr(getattr(cli_args, "args", None), name, None)
