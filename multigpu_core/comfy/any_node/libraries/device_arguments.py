"""Devices that libraries are given in arguments of their own, rewritten to the chosen one.

transformers, diffusers and accelerate take a `device_map`, which ``"cuda"`` and ``"auto"`` turn into the first GPU or
all of them. onnxruntime and safetensors take ``CUDAExecutionProvider`` and ``"cuda"`` for the first GPU, too.
"""

from __future__ import annotations

from typing import Any

from multigpu.multigpu_core.comfy.any_node.choice import Choice, current_choice, named_device

from .interception import Function, Intercepted

AUTOMATIC = frozenset({"auto", "balanced", "balanced_low_0", "sequential"})
"""Device maps that spread a model over all devices."""
PROVIDERS = frozenset({"CUDAExecutionProvider", "ROCMExecutionProvider", "CANNExecutionProvider"})
CPU_PROVIDER = "CPUExecutionProvider"


def with_chosen_map(choice: Choice, kwargs: dict[str, Any]) -> dict[str, Any]:
    """A loader's keyword arguments with the device map that means the chosen device.

    An automatic map keeps its spilling to system memory: it gets the chosen device and the cpu to fill.
    """
    device_map = kwargs.get("device_map")
    if device_map is None:
        return kwargs
    if isinstance(device_map, str) and device_map in AUTOMATIC:
        if choice.device.type == "cpu":
            return {**kwargs, "device_map": {"": "cpu"}, "max_memory": None}
        return {**kwargs, "max_memory": kwargs.get("max_memory") or chosen_memory(choice)}
    if isinstance(device_map, dict):
        return {**kwargs, "device_map": {part: choice.instead_of(device) for part, device in device_map.items()}}
    return {**kwargs, "device_map": choice.instead_of(device_map)}


def chosen_memory(choice: Choice) -> dict[int | str, int]:
    """What accelerate may fill: the chosen device, then system memory."""
    registry = choice.registry
    device: int | str = choice.name if choice.device.index is None else choice.device.index
    return {device: registry.free_bytes(choice.name), "cpu": registry.free_bytes("cpu")}


def _from_pretrained(original: Function) -> Function:
    def from_pretrained(cls: Any, *args: Any, **kwargs: Any) -> Any:
        choice = current_choice()
        return original(cls, *args, **(kwargs if choice is None else with_chosen_map(choice, kwargs)))

    return from_pretrained


def _get_max_memory(original: Function) -> Function:
    def get_max_memory(max_memory: Any = None) -> Any:
        choice = current_choice()
        if max_memory is None and choice is not None and choice.device.type != "cpu":
            max_memory = chosen_memory(choice)
        return original(max_memory)

    return get_max_memory


def _offload(original: Function) -> Function:
    """Diffusers takes the first GPU where its pipeline is offloaded without a number."""

    def enable(pipeline: Any, gpu_id: Any = None, device: Any = None) -> Any:
        choice = current_choice()
        if choice is None:
            return original(pipeline, gpu_id, device) if device is not None else original(pipeline, gpu_id)
        if gpu_id is None and (device is None or named_device(device) is not None):
            device = choice.device if device is None else choice.instead_of(device)
        return original(pipeline, None if gpu_id is None else choice.instead_of(gpu_id), device)

    return enable


def _inference_session(original: Function) -> Function:
    def start(session: Any, *args: Any, **kwargs: Any) -> None:
        choice = current_choice()
        if choice is not None and kwargs.get("providers") and not kwargs.get("provider_options"):
            kwargs["providers"] = [chosen_provider(choice, provider) for provider in kwargs["providers"]]
        original(session, *args, **kwargs)

    return start


def chosen_provider(choice: Choice, provider: Any) -> Any:
    """An execution provider of onnxruntime with the number of the chosen device, unless the pack gives one."""
    name, options = (provider, {}) if isinstance(provider, str) else provider
    if name not in PROVIDERS or not choice.means_home(int(options.get("device_id", choice.home.index or 0))):
        return provider
    if choice.changes_family:
        return CPU_PROVIDER
    return name, {**options, "device_id": choice.device.index}


def _safe_open(original: Function) -> Function:
    def safe_open(*args: Any, **kwargs: Any) -> Any:
        choice = current_choice()
        if choice is not None and isinstance(kwargs.get("device"), (str, int)):
            kwargs["device"] = choice.instead_of(kwargs["device"])
        return original(*args, **kwargs)

    return safe_open


LIBRARIES = (
    Intercepted("transformers.modeling_utils", "PreTrainedModel.from_pretrained", _from_pretrained),
    Intercepted("diffusers.models.modeling_utils", "ModelMixin.from_pretrained", _from_pretrained),
    Intercepted("diffusers.pipelines.pipeline_utils", "DiffusionPipeline.from_pretrained", _from_pretrained),
    Intercepted("diffusers.pipelines.pipeline_utils", "DiffusionPipeline.enable_model_cpu_offload", _offload),
    Intercepted("diffusers.pipelines.pipeline_utils", "DiffusionPipeline.enable_sequential_cpu_offload", _offload),
    Intercepted("accelerate.utils.modeling", "get_max_memory", _get_max_memory),
    Intercepted("onnxruntime.capi.onnxruntime_inference_collection", "InferenceSession.__init__", _inference_session),
    Intercepted("safetensors.torch", "safe_open", _safe_open),
)
