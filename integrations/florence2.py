"""ComfyUI-Florence2: its two loaders with a device and an offload device.

Weights are not split: Florence2Run moves the whole model to its device and back, which would undo a split.
"""

from __future__ import annotations

from collections.abc import Iterable

from multigpu import hookimpl
from multigpu.api import DevicePart, NodeVariant, PackDevices, WrappedLoader

multigpu_pack = "ComfyUI-Florence2"

LOADERS = ("Florence2ModelLoader", "DownloadAndLoadFlorence2Model")
PACK = PackDevices(model_types=("FL2MODEL",))
PART = DevicePart((0,), offload_input="offload_device")
DESCRIPTION = "The model waits on the offload device and runs on the device. It cannot be split: it is moved whole."


@hookimpl
def multigpu_wrap_loader() -> Iterable[WrappedLoader]:
    for target in LOADERS:
        variant = NodeVariant(f"{target}MultiGPU", "MultiGPU", (PART,), description=DESCRIPTION)
        yield WrappedLoader(target, (variant,), PACK)
