"""x-flux-comfyui's ControlNet loader. Its nodes move whole models by themselves, so a device, no split."""

from __future__ import annotations

from collections.abc import Iterable

from multigpu.hookspecs import DevicePart, NodeVariant, WrappedLoader, hookimpl


@hookimpl
def multigpu_wrap_loader() -> Iterable[WrappedLoader]:
    variant = NodeVariant("LoadFluxControlNetMultiGPU", "MultiGPU", (DevicePart((0,)),))
    yield WrappedLoader("LoadFluxControlNet", (variant,), pack_follows=True)
