"""ComfyUI-LTXVideo's loaders, those of older versions and of today's; which are there is seen when ComfyUI runs."""

from __future__ import annotations

from collections.abc import Iterable

from multigpu.hookspecs import PackDevices, WrappedLoader, device_only, hookimpl, split_and_device

multigpu_pack = "ComfyUI-LTXVideo"

WHOLE = ("LTXVLoader", "LowVRAMAudioVAELoader", "LTXVGemmaCLIPModelLoader", "LTXVPromptEnhancerLoader")
SPLIT = ("LowVRAMCheckpointLoader", "LowVRAMLatentUpscaleModelLoader")
"""Their models are ComfyUI's to place."""

PACK = PackDevices(model_types=("MODEL", "CLIP", "VAE", "LATENT_UPSCALE_MODEL"))


@hookimpl
def multigpu_wrap_loader() -> Iterable[WrappedLoader]:
    for target in WHOLE:
        yield WrappedLoader(target, (device_only(target),), pack=PACK)
    for target in SPLIT:
        yield WrappedLoader(target, split_and_device(target), pack=PACK)
