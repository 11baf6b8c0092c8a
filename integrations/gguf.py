"""ComfyUI-GGUF's loaders. Weights stay quantised where they are stored and on the way to the compute device."""

from __future__ import annotations

from collections.abc import Iterable

from multigpu import hookimpl
from multigpu.api import DevicePart, NodeVariant, WrappedLoader, split_and_device

multigpu_pack = "ComfyUI-GGUF"

MODELS = ("UnetLoaderGGUF", "UnetLoaderGGUFAdvanced")
TEXT_ENCODERS = ("CLIPLoaderGGUF", "DualCLIPLoaderGGUF", "TripleCLIPLoaderGGUF", "QuadrupleCLIPLoaderGGUF")


def legacy_split(target: str) -> NodeVariant:
    """The split node of the first generation, for saved workflows: its donors are the cpu, or all other cards first."""
    part = DevicePart((0,), splits=True, donors_by_switch=True)
    return NodeVariant(f"{target}DisTorchMultiGPU", "DisTorch", (part,), options=())


@hookimpl
def multigpu_wrap_loader() -> Iterable[WrappedLoader]:
    for target in MODELS:
        yield WrappedLoader(target, (*split_and_device(target), legacy_split(target)))
    for target in TEXT_ENCODERS:
        yield WrappedLoader(target, (*split_and_device(target, split_device_input="device"), legacy_split(target)))
