"""PuLID_ComfyUI's loaders: a device. Its Apply node computes where the model computes that it is applied to."""

from __future__ import annotations

from collections.abc import Iterable

from multigpu.hookspecs import DevicePart, NodeVariant, WrappedLoader, hookimpl

TARGETS = ("PulidModelLoader", "PulidInsightFaceLoader", "PulidEvaClipLoader")


@hookimpl
def multigpu_wrap_loader() -> Iterable[WrappedLoader]:
    for target in TARGETS:
        variant = NodeVariant(f"{target}MultiGPU", "MultiGPU", (DevicePart((0,)),))
        yield WrappedLoader(target, (variant,), pack_follows=True)
