"""ComfyUI_bitsandbytes_NF4: its checkpoint loader with a device.

Weights are not split: a 4-bit parameter of bitsandbytes keeps its scales beside its data, and changes itself when it is
moved, so that a weight cannot be stored on one device and brought to another.
"""

from __future__ import annotations

from collections.abc import Iterable

from multigpu import hookimpl
from multigpu.api import DevicePart, NodeVariant, WrappedLoader

multigpu_pack = "ComfyUI_bitsandbytes_NF4"

CHECKPOINT = NodeVariant(
    "CheckpointLoaderNF4MultiGPU",
    "MultiGPU",
    (DevicePart((0, 1, 2)),),
    description="A 4-bit checkpoint on the CUDA device that you choose. It cannot be split: bitsandbytes keeps the "
    "scales of its weights beside them and changes a weight when it is moved.",
)


@hookimpl
def multigpu_wrap_loader() -> Iterable[WrappedLoader]:
    yield WrappedLoader("CheckpointLoaderNF4", (CHECKPOINT,))
