"""ComfyUI-MMAudio's loaders and sampler. The sampler moves the models by itself, so a device, no split."""

from __future__ import annotations

from collections.abc import Iterable

from multigpu.hookspecs import PackDevices, WrappedLoader, device_only, hookimpl

multigpu_pack = "ComfyUI-MMAudio"

OUTPUTS = {"MMAudioModelLoader": (0,), "MMAudioFeatureUtilsLoader": (0,), "MMAudioSampler": ()}
"""The targets, and which of their outputs are models."""

PACK = PackDevices(model_types=("MMAUDIO_MODEL", "MMAUDIO_FEATUREUTILS"))


@hookimpl
def multigpu_wrap_loader() -> Iterable[WrappedLoader]:
    for target, outputs in OUTPUTS.items():
        yield WrappedLoader(target, (device_only(target, outputs),), pack=PACK)
