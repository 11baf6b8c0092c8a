"""ComfyUI-HunyuanVideoWrapper's loaders: a device, which its other nodes follow. It swaps blocks by its own means."""

from __future__ import annotations

from collections.abc import Iterable

from multigpu.hookspecs import PackDevices, WrappedLoader, device_only, hookimpl

multigpu_pack = "ComfyUI-HunyuanVideoWrapper"

TARGETS = ("HyVideoModelLoader", "HyVideoVAELoader", "DownloadAndLoadHyVideoTextEncoder")

PACK = PackDevices(model_types=("HYVIDEOMODEL", "HYVIDTEXTENCODER", "VAE"))


@hookimpl
def multigpu_wrap_loader() -> Iterable[WrappedLoader]:
    for target in TARGETS:
        yield WrappedLoader(target, (device_only(target),), pack=PACK)
