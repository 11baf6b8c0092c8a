"""ComfyUI_bitsandbytes_NF4's checkpoint loader: a device, no split, as 4-bit weights change in place when moved."""

from __future__ import annotations

from collections.abc import Iterable

from multigpu.hookspecs import DevicePart, NodeVariant, WrappedLoader, hookimpl

multigpu_pack = "ComfyUI_bitsandbytes_NF4"


@hookimpl
def multigpu_wrap_loader() -> Iterable[WrappedLoader]:
    description = (
        "An NF4 checkpoint on the device that you choose. bitsandbytes quantises it there and computes on CUDA only. "
        "It cannot be split: moving a 4-bit weight changes it in place."
    )
    parts = (DevicePart((0, 1, 2)),)
    variant = NodeVariant("CheckpointLoaderNF4MultiGPU", "MultiGPU", parts, description=description)
    yield WrappedLoader("CheckpointLoaderNF4", (variant,))
