"""ComfyUI-MMAudio's loaders and sampler. The sampler moves the models by itself, so a device, no split."""

from __future__ import annotations

from collections.abc import Iterable

from multigpu.hookspecs import DevicePart, NodeVariant, WrappedLoader, hookimpl

OUTPUTS = {"MMAudioModelLoader": (0,), "MMAudioFeatureUtilsLoader": (0,), "MMAudioSampler": ()}
"""The targets, and which of their outputs are models."""


@hookimpl
def multigpu_wrap_loader() -> Iterable[WrappedLoader]:
    for target, outputs in OUTPUTS.items():
        variant = NodeVariant(f"{target}MultiGPU", "MultiGPU", (DevicePart(outputs),))
        yield WrappedLoader(target, (variant,), pack_follows=True)
