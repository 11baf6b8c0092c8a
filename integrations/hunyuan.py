"""ComfyUI-HunyuanVideoWrapper: its model, VAE and text-encoder loaders with a device.

Weights are not split: the pack moves the transformer whole, or swaps blocks between two devices itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from multigpu import hookimpl
from multigpu.api import DevicePart, NodeVariant, PackDevices, WrappedLoader

multigpu_pack = "ComfyUI-HunyuanVideoWrapper"

LOADERS = {
    "HyVideoModelLoader": "The model on the device that you choose; the pack's own sampler follows it there. To keep a "
    "part of it elsewhere, use the pack's own block swap.",
    "HyVideoVAELoader": "The VAE on the device that you choose; the pack's own encode and decode nodes follow it.",
    "DownloadAndLoadHyVideoTextEncoder": "The text encoders on the device that you choose; the pack's own encode nodes "
    "follow them there. With the bnb_nf4 quantisation they stay where they were loaded.",
}
# Encoding may move the video model out of the way: the text encoder decides, not that model.
PACK = PackDevices(model_types=("HYVIDTEXTENCODER", "VAE", "HYVIDEOMODEL"))


@hookimpl
def multigpu_wrap_loader() -> Iterable[WrappedLoader]:
    for target, description in LOADERS.items():
        variant = NodeVariant(f"{target}MultiGPU", "MultiGPU", (DevicePart((0,)),), description=description)
        yield WrappedLoader(target, (variant,), PACK)
