"""ComfyUI-MMAudio: its model and feature loaders with a device, and its sampler, which moves both to its own.

Weights are not split: the sampler moves the whole models.
"""

from __future__ import annotations

from collections.abc import Iterable

from multigpu import hookimpl
from multigpu.api import DevicePart, NodeVariant, PackDevices, WrappedLoader

multigpu_pack = "ComfyUI-MMAudio"

LOADERS = ("MMAudioModelLoader", "MMAudioFeatureUtilsLoader")
PACK = PackDevices(model_types=("MMAUDIO_MODEL", "MMAUDIO_FEATUREUTILS"))
SAMPLER = NodeVariant(
    "MMAudioSamplerMultiGPU",
    "MultiGPU",
    (DevicePart(()),),
    description="Samples on the device that you choose, to which the model and the feature utils are moved whole.",
)


@hookimpl
def multigpu_wrap_loader() -> Iterable[WrappedLoader]:
    for target in LOADERS:
        variant = NodeVariant(f"{target}MultiGPU", "MultiGPU", (DevicePart((0,)),))
        yield WrappedLoader(target, (variant,), PACK)
    yield WrappedLoader("MMAudioSampler", (SAMPLER,), PACK)
