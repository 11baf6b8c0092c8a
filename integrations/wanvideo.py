"""ComfyUI-WanVideoWrapper: loaders with a device, and nodes that encode, decode and sample on the device of a model.

Its weights are not split by us: the pack loads them when it samples and swaps blocks itself. Its block swap gets a
swap device instead, which may be another card.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from multigpu import hookimpl
from multigpu.api import DevicePart, ExtraInput, NodeVariant, PackDevices, ReplacedInput, WrappedLoader

if TYPE_CHECKING:
    import torch

multigpu_pack = "ComfyUI-WanVideoWrapper"

SWAP = "To keep a part of a model on another device, give its loader block_swap_args with a swap device."


def _swap_device(inputs: Mapping[str, Any]) -> str | None:
    """The swap device that a sampler's model was given with its block swap."""
    model = inputs.get("model")
    options = getattr(model, "model_options", {}).get("transformer_options", {})
    settings = options.get("block_swap_args")
    if settings is None:  # the pack kept it in the model until 2025
        settings = getattr(getattr(model, "model", None), "pipeline", {}).get("block_swap_args")
    return settings.get("swap_device") if settings else None


@contextmanager
def transformer_devices(inputs: Mapping[str, Any], compute: torch.device) -> Iterator[None]:
    """A transformer keeps the devices that it swaps blocks between: these are the compute and the swap device.

    What is offloaded whole still goes where the pack offloads to.
    """
    transformer = getattr(getattr(inputs.get("model"), "model", None), "diffusion_model", None)
    wanted = {"main_device": compute, "offload_device": _device(_swap_device(inputs))}
    found = {
        name: getattr(transformer, name) for name, device in wanted.items() if device and hasattr(transformer, name)
    }
    for name in found:
        setattr(transformer, name, wanted[name])
    try:
        yield
    finally:
        for name, device in found.items():
            setattr(transformer, name, device)


def _device(name: str | None) -> torch.device | None:
    import torch

    return torch.device(name) if name else None


PACK = PackDevices(
    model_types=(
        "WANTEXTENCODER",
        "CLIP_VISION",
        "WANVAE",
        "WAV2VECMODEL",
        "FANTASYTALKINGMODEL",
        "WANVIDEOMODEL",
        "WANVIDEOCONTROLNET",
    ),
    device_globals=("device", "main_device"),
    offload_globals=("offload_device",),
    around=transformer_devices,
)

REQUIRED_DEVICE = DevicePart((0,), section="required")
ENCODER_DEVICE = DevicePart((0,), replaces=ReplacedInput("load_device", "main_device"))
VAE_DEVICE = DevicePart((0,), device_input="load_device", before="precision")
VACE = ExtraInput("vace_model", "VACEPATH", "The former name of extra_model.", before="fantasytalking_model")


def _model_loader(node_id: str) -> NodeVariant:
    part = DevicePart((0,), device_input="compute_device", section="required")
    description = f"The Wan model on the device that you choose; so are its sampler's computations. {SWAP}"
    return NodeVariant(
        node_id, "MultiGPU", (part,), description=description, device_output="compute_device", extra_inputs=(VACE,)
    )


LOADERS = {
    "WanVideoVAELoader": (VAE_DEVICE, "load_device"),
    "WanVideoTinyVAELoader": (VAE_DEVICE, "load_device"),
    "LoadWanVideoT5TextEncoder": (ENCODER_DEVICE, "load_device"),
    "LoadWanVideoClipTextEncoder": (ENCODER_DEVICE, "load_device"),
    "WanVideoControlnetLoader": (REQUIRED_DEVICE, ""),
    "FantasyTalkingModelLoader": (REQUIRED_DEVICE, ""),
    "Wav2VecModelLoader": (REQUIRED_DEVICE, ""),
    "DownloadAndLoadWav2VecModel": (REQUIRED_DEVICE, ""),
    "WanVideoUni3C_ControlnetLoader": (DevicePart((0,), section="required", before="attention_mode"), ""),
}

TEXT_DEVICE = ReplacedInput("device", "gpu", value_on_cpu="cpu")


def _runs_on(before: str, *, name: str = "load_device", section: str = "required") -> DevicePart:
    return DevicePart((), device_input=name, section=section, before=before, socket=True)


_TEXT = DevicePart((), device_input="load_device", before="force_offload", socket=True, replaces=TEXT_DEVICE)
USERS = {
    "WanVideoTextEncode": _TEXT,
    "WanVideoTextEncodeSingle": _TEXT,
    "WanVideoTextEncodeCached": DevicePart((), device_input="load_device", section="required", replaces=TEXT_DEVICE),
    "WanVideoClipVisionEncode": _runs_on("image_1"),
    "WanVideoEncode": _runs_on("image"),
    "WanVideoDecode": _runs_on("samples"),
    "WanVideoVACEEncode": _runs_on("width"),
    "WanVideoImageToVideoEncode": _runs_on("clip_embeds", section="optional"),
    "WanVideoSampler": _runs_on("image_embeds", name="compute_device"),
}

BLOCK_SWAP = NodeVariant(
    "WanVideoBlockSwapMultiGPU",
    "MultiGPU",
    (),
    description="The pack's own block swap, with the device that keeps the swapped blocks. It takes effect on a model "
    "from a MultiGPU loader, and in the MultiGPU sampler.",
    extra_inputs=(ExtraInput("swap_device", "DEVICE", "The device that keeps the swapped blocks."),),
)


@hookimpl
def multigpu_wrap_loader() -> Iterable[WrappedLoader]:
    models = tuple(_model_loader(f"WanVideoModelLoaderMultiGPU{number}") for number in ("", "_2"))
    yield WrappedLoader("WanVideoModelLoader", models, PACK)
    for target, (part, output) in LOADERS.items():
        variant = NodeVariant(f"{target}MultiGPU", "MultiGPU", (part,), device_output=output)
        yield WrappedLoader(target, (variant,), PACK)
    for target, part in USERS.items():
        yield WrappedLoader(target, (NodeVariant(f"{target}MultiGPU", "MultiGPU", (part,)),), PACK)
    yield WrappedLoader("WanVideoBlockSwap", (BLOCK_SWAP,), PACK)
