"""PuLID_ComfyUI: its loaders with a device, and its Apply nodes on the device of the model that they change.

Weights are not split: they are small, and Apply moves them whole.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from multigpu import hookimpl
from multigpu.api import DevicePart, NodeVariant, PackDevices, WrappedLoader

if TYPE_CHECKING:
    import torch

multigpu_pack = "PuLID_ComfyUI"

PROVIDERS = ("CUDA", "ROCM")
"""Providers of onnxruntime that compute on a card by its number."""


@contextmanager
def face_analysis_on(inputs: Mapping[str, Any], compute: torch.device) -> Iterator[None]:
    """The face analysis chooses its device by the options of its provider, which the pack leaves out."""
    modules: list[Any] = [module for module in list(sys.modules.values()) if _loads_faces(module)]
    if inputs.get("provider") not in PROVIDERS or compute.index is None or not modules:
        yield
        return
    originals = [module.FaceAnalysis for module in modules]
    for module, original in zip(modules, originals, strict=True):
        module.FaceAnalysis = functools.partial(original, provider_options=[{"device_id": compute.index}])
    try:
        yield
    finally:
        for module, original in zip(modules, originals, strict=True):
            module.FaceAnalysis = original


def _loads_faces(module: Any) -> bool:
    names = getattr(module, "__dict__", {})
    return "PulidInsightFaceLoader" in names and "FaceAnalysis" in names


# What Apply adds to a model computes with it, wherever PuLID and its encoders were loaded.
PACK = PackDevices(model_types=("MODEL",), around=face_analysis_on)
MOVED = "ApplyPulid moves it to the device of the model that it changes."
LOADERS = {
    "PulidModelLoader": f"The PuLID model on the device that you choose, until {MOVED}",
    "PulidInsightFaceLoader": "The face analysis on the card that you choose, with the providers CUDA and ROCM; the "
    "others know one device only.",
    "PulidEvaClipLoader": f"The EVA CLIP encoder on the device that you choose, until {MOVED}",
}


@hookimpl
def multigpu_wrap_loader() -> Iterable[WrappedLoader]:
    for target, description in LOADERS.items():
        variant = NodeVariant(f"{target}MultiGPU", "MultiGPU", (DevicePart((0,)),), description=description)
        yield WrappedLoader(target, (variant,), PACK)
