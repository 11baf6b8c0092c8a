"""ComfyUI-Florence2's loaders: a device and a place to wait, no split, because the run node moves the model itself."""

from __future__ import annotations

from collections.abc import Iterable

from multigpu.hookspecs import PackDevices, WrappedLoader, device_only, hookimpl

multigpu_pack = "ComfyUI-Florence2"

TARGETS = ("Florence2ModelLoader", "DownloadAndLoadFlorence2Model")

PACK = PackDevices(model_types=("FL2MODEL",))


@hookimpl
def multigpu_wrap_loader() -> Iterable[WrappedLoader]:
    for target in TARGETS:
        variant = device_only(target, (0,), offload_input="offload_device")
        yield WrappedLoader(target, (variant,), pack=PACK)
