"""ComfyUI-LTXVideo: the loaders of its older and its newer versions. ComfyUI's own LTXV loaders are in comfy_core.

The checkpoint and the upscaler can be split. The others compute as one piece that ComfyUI moves whole.
"""

from __future__ import annotations

from collections.abc import Iterable

from multigpu import hookimpl
from multigpu.api import DevicePart, NodeVariant, PackDevices, WrappedLoader, split_and_device

multigpu_pack = "ComfyUI-LTXVideo"

SPLIT = ("LowVRAMCheckpointLoader", "LowVRAMLatentUpscaleModelLoader")
WHOLE = (
    "LTXVLoader",
    "LowVRAMAudioVAELoader",
    "LTXVGemmaCLIPModelLoader",
    "LTXVPromptEnhancerLoader",
)
# The LoRA of a quantised model is prepared on "cuda", the current device: the model's.
PACK = PackDevices(model_types=("LTXV_PROMPT_ENHANCER", "MODEL", "VAE"))


@hookimpl
def multigpu_wrap_loader() -> Iterable[WrappedLoader]:
    for target in SPLIT:
        yield WrappedLoader(target, split_and_device(target), PACK)
    for target in WHOLE:
        part = DevicePart((0, 1))
        yield WrappedLoader(target, (NodeVariant(f"{target}MultiGPU", "MultiGPU", (part,)),), PACK)
