"""PuLID_ComfyUI's loaders: a device. Its Apply node computes where the model computes that it is applied to."""

from __future__ import annotations

from collections.abc import Iterable

from multigpu.hookspecs import PackDevices, WrappedLoader, device_only, hookimpl

multigpu_pack = "PuLID_ComfyUI"

TARGETS = ("PulidModelLoader", "PulidInsightFaceLoader", "PulidEvaClipLoader")

PACK = PackDevices(model_types=("MODEL", "PULID", "EVA_CLIP"))


@hookimpl
def multigpu_wrap_loader() -> Iterable[WrappedLoader]:
    for target in TARGETS:
        yield WrappedLoader(target, (device_only(target),), pack=PACK)
