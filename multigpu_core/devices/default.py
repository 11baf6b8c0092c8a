"""The registry of everything that this machine's torch can use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from multigpu.multigpu_core.devices.backends.accelerator import AcceleratorBackend, CudaBackend, PrivateUse1Backend
from multigpu.multigpu_core.devices.backends.base import DeviceBackend
from multigpu.multigpu_core.devices.backends.cpu import CpuBackend
from multigpu.multigpu_core.devices.backends.directml import DirectMLBackend
from multigpu.multigpu_core.devices.backends.mps import MpsBackend
from multigpu.multigpu_core.devices.backends.vendor import import_vendor_package

from .registry import DeviceRegistry


def default_registry(
    *, hints: Mapping[str, str] | None = None, more_backends: Iterable[DeviceBackend] = ()
) -> DeviceRegistry:
    """A registry over all backends and `more_backends`, those of plugins; `hints` as in `DeviceRegistry`.

    Vendors' packages that are installed (torch_npu, torch_mlu, torch_directml) are imported, as ComfyUI does.
    """
    return DeviceRegistry((*default_backends(), *more_backends), hints=hints)


def default_backends() -> tuple[DeviceBackend, ...]:
    """One backend for each family that torch knows, whether or not it has devices here."""
    privateuse1_packages = tuple(import_vendor_package(name) for name in ("torch_npu", "torch_mlu"))
    return (
        CpuBackend(),
        CudaBackend(),
        AcceleratorBackend("xpu", ("ZE_AFFINITY_MASK", "ONEAPI_DEVICE_SELECTOR")),
        MpsBackend(),
        # Before PrivateUse1: while no backend has renamed it, "privateuseone" is DirectML's.
        DirectMLBackend(import_vendor_package("torch_directml")),
        PrivateUse1Backend(
            {"npu": ("ASCEND_RT_VISIBLE_DEVICES",), "mlu": ("MLU_VISIBLE_DEVICES",)}, privateuse1_packages
        ),
    )
