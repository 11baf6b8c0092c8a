"""ComfyUI-Florence2's loaders: a device and a place to wait, no split, because the run node moves the model itself."""

from __future__ import annotations

from collections.abc import Iterable

from multigpu.hookspecs import DevicePart, NodeVariant, WrappedLoader, hookimpl

TARGETS = ("Florence2ModelLoader", "DownloadAndLoadFlorence2Model")


@hookimpl
def multigpu_wrap_loader() -> Iterable[WrappedLoader]:
    part = DevicePart((0,), offload_input="offload_device")
    for target in TARGETS:
        yield WrappedLoader(target, (NodeVariant(f"{target}MultiGPU", "MultiGPU", (part,)),), pack_follows=True)
