"""ComfyUI-HunyuanVideoWrapper's loaders: a device, which its other nodes follow. It swaps blocks by its own means."""

from __future__ import annotations

from collections.abc import Iterable

from multigpu.hookspecs import DevicePart, NodeVariant, WrappedLoader, hookimpl

TARGETS = ("HyVideoModelLoader", "HyVideoVAELoader", "DownloadAndLoadHyVideoTextEncoder")


@hookimpl
def multigpu_wrap_loader() -> Iterable[WrappedLoader]:
    for target in TARGETS:
        variant = NodeVariant(f"{target}MultiGPU", "MultiGPU", (DevicePart((0,)),))
        yield WrappedLoader(target, (variant,), pack_follows=True)
