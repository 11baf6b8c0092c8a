"""ComfyUI's own loaders, as a device and a split variant each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from multigpu import hookimpl
from multigpu.api import DevicePart, NodeVariant, OwnNode, PackDevices, WrappedLoader, split_and_device

if TYPE_CHECKING:
    import torch

# Loaders of text encoders call their compute device just "device", also where they split.
TEXT_ENCODERS = ("CLIPLoader", "DualCLIPLoader", "TripleCLIPLoader", "QuadrupleCLIPLoader", "CLIPVisionLoader")
MODELS = (
    "UNETLoader",
    "VAELoader",
    "CheckpointLoaderSimple",
    "ControlNetLoader",
    "DiffControlNetLoader",
    "DiffusersLoader",
    "unCLIPCheckpointLoader",
    "ImageOnlyCheckpointLoader",
    "LTXAVTextEncoderLoader",
    "LTXVAudioVAELoader",
)
# Small models, or such as ComfyUI loads with a patcher of its own: a device is all that they need.
WHOLE = (
    "GLIGENLoader",
    "ModelPatchLoader",
    "LatentUpscaleModelLoader",
    "AudioEncoderLoader",
    "PhotoMakerLoader",
    "FrameInterpolationModelLoader",
    "LoadBackgroundRemovalModel",
)

# Before ComfyUI gave upscale models a patcher, the node that used one chose its device.
UPSCALING = PackDevices(model_types=("UPSCALE_MODEL",))


@contextmanager
def style_model_on(inputs: Mapping[str, Any], compute: torch.device) -> Iterator[None]:
    """ComfyUI keeps style models on the cpu for good: this one computes elsewhere for a call, and goes back."""
    module = getattr(inputs.get("style_model"), "model", None)
    if module is None:
        yield
        return
    home = next(module.parameters()).device
    hooks = (
        module.register_forward_pre_hook(lambda _, seen: tuple(each.to(compute) for each in seen)),
        module.register_forward_hook(lambda _, seen, tokens: tokens.to(home)),
    )
    module.to(compute)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        module.to(home)


STYLE = PackDevices(model_types=("STYLE_MODEL",), around=style_model_on)

CHECKPOINT_PARTS = NodeVariant(
    "CheckpointLoaderAdvancedMultiGPU",
    "Advanced MultiGPU",
    (
        DevicePart((0,), prefix="unet_", section="required"),
        DevicePart((1,), prefix="clip_", section="required"),
        DevicePart((2,), prefix="vae_", section="required"),
    ),
)
CHECKPOINT_PARTS_SPLIT = NodeVariant(
    "CheckpointLoaderAdvancedDisTorch2MultiGPU",
    "Advanced DisTorch2",
    (
        DevicePart((0,), prefix="unet_", device_input="compute_device", section="required", splits=True),
        DevicePart(
            (1,),
            prefix="clip_",
            device_input="compute_device",
            section="required",
            splits=True,
            default_virtual_vram_gb=2.0,
        ),
        DevicePart((2,), prefix="vae_", section="required"),
    ),
    options=("high_precision_loras", "eject_models", "keep_loaded", "strategy"),
)
LOW_PRECISION_LORAS = NodeVariant(
    "UNetLoaderLP",
    "LP",
    (),
    fixed_inputs=(("weight_dtype", "default"),),
    description="An ordinary load on ComfyUI's own device, for saved workflows. LoRAs are patched where ComfyUI stores "
    "the weights; to choose that for a split model, use its high_precision_loras input.",
)


class DeviceSelector:
    """Hands one device's name to nodes that have a socket for it."""

    DESCRIPTION = "Hands a device to nodes that have a MULTIGPUDEVICE socket. Most nodes choose theirs in a widget."
    RETURN_TYPES = ("MULTIGPUDEVICE",)
    RETURN_NAMES = ("device",)
    FUNCTION = "select_device"
    CATEGORY = "multigpu/device"
    SEARCH_ALIASES = ("multi gpu", "second gpu", "device")

    def select_device(self, device: str) -> tuple[str]:
        return (device,)


@hookimpl
def multigpu_wrap_loader() -> Iterable[WrappedLoader | OwnNode]:
    for target in TEXT_ENCODERS:
        yield WrappedLoader(target, split_and_device(target, split_device_input="device"))
    for target in MODELS:
        yield WrappedLoader(target, split_and_device(target))
    for target in WHOLE:
        yield WrappedLoader(target, split_and_device(target)[:1])
    yield WrappedLoader("UpscaleModelLoader", split_and_device("UpscaleModelLoader")[:1], UPSCALING)
    yield WrappedLoader("StyleModelLoader", split_and_device("StyleModelLoader")[:1], STYLE)
    yield WrappedLoader("CheckpointLoaderSimple", (CHECKPOINT_PARTS, CHECKPOINT_PARTS_SPLIT))
    yield WrappedLoader("UNETLoader", (LOW_PRECISION_LORAS,))
    yield OwnNode("DeviceSelectorMultiGPU", "MultiGPU: Device Selector", DeviceSelector, ("device",))
