"""x-flux-comfyui's ControlNet loader. Its nodes move whole models by themselves, so a device, no split."""

from __future__ import annotations

from collections.abc import Iterable

from multigpu.hookspecs import PackDevices, WrappedLoader, device_only, hookimpl

PACK = PackDevices(model_types=("MODEL", "FluxControlNet"))

multigpu_pack = "x-flux-comfyui"


@hookimpl
def multigpu_wrap_loader() -> Iterable[WrappedLoader]:
    yield WrappedLoader("LoadFluxControlNet", (device_only("LoadFluxControlNet"),), pack=PACK)
