"""Every name that the author of a plugin needs beside the hooks of `multigpu.hookspecs`.

    from multigpu import hookimpl
    from multigpu.api import AllocationPlan, Placement, WrappedLoader, split_and_device

The names load when they are first used: data about loaders needs neither torch nor ComfyUI, while inventories, plans
and devices bring torch. Everything under `multigpu.multigpu_core` may move without notice; these names do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from multigpu.multigpu_core.lazy_names import lazily

if TYPE_CHECKING:
    from multigpu.multigpu_core.allocation import (
        AllocationError,
        AllocationMode,
        AllocationPlan,
        AllocationRequest,
        Block,
        BlockKind,
        HeaderError,
        Inventory,
        Placement,
        PlanError,
        Share,
        WorkShare,
    )
    from multigpu.multigpu_core.allocation.formats.file_format import FileFormat
    from multigpu.multigpu_core.allocation.formats.stored_tensor import StoredTensor
    from multigpu.multigpu_core.contract.loaders import (
        DevicePart,
        ExtraInput,
        NodeVariant,
        OwnNode,
        PackDevices,
        ReplacedInput,
        WrappedLoader,
        device_only,
        split_and_device,
    )
    from multigpu.multigpu_core.contract.unloading import LoadedModelInfo, UnloadReason
    from multigpu.multigpu_core.devices import (
        DeviceBackend,
        DeviceError,
        DeviceInfo,
        HardwareProfile,
        LinkSpeed,
        MemoryReading,
    )
    from multigpu.multigpu_core.plugins import PackState, PluginError, TargetPack
    from multigpu.multigpu_core.strategies.strategy import Strategy

_MODULES = {
    "allocation": (
        "AllocationError",
        "AllocationMode",
        "AllocationPlan",
        "AllocationRequest",
        "Block",
        "BlockKind",
        "HeaderError",
        "Inventory",
        "Placement",
        "PlanError",
        "Share",
        "WorkShare",
    ),
    "allocation.formats.file_format": ("FileFormat",),
    "allocation.formats.stored_tensor": ("StoredTensor",),
    "contract.loaders": (
        "DevicePart",
        "ExtraInput",
        "NodeVariant",
        "OwnNode",
        "PackDevices",
        "ReplacedInput",
        "WrappedLoader",
        "device_only",
        "split_and_device",
    ),
    "strategies.strategy": ("Strategy",),
    "contract.unloading": ("LoadedModelInfo", "UnloadReason"),
    "devices": ("DeviceBackend", "DeviceError", "DeviceInfo", "HardwareProfile", "LinkSpeed", "MemoryReading"),
    "plugins": ("PackState", "PluginError", "TargetPack"),
}

__all__ = [
    "AllocationError",
    "AllocationMode",
    "AllocationPlan",
    "AllocationRequest",
    "Block",
    "BlockKind",
    "DeviceBackend",
    "DeviceError",
    "DeviceInfo",
    "DevicePart",
    "ExtraInput",
    "FileFormat",
    "HardwareProfile",
    "HeaderError",
    "Inventory",
    "LinkSpeed",
    "LoadedModelInfo",
    "MemoryReading",
    "NodeVariant",
    "OwnNode",
    "PackDevices",
    "PackState",
    "Placement",
    "PlanError",
    "PluginError",
    "ReplacedInput",
    "Share",
    "StoredTensor",
    "Strategy",
    "TargetPack",
    "UnloadReason",
    "WorkShare",
    "WrappedLoader",
    "device_only",
    "is_split",
    "split_and_device",
]


def is_split(model: object) -> bool:
    """Return whether a MODEL, CLIP, VAE or other output of a loader has weights that one of our nodes splits."""
    from multigpu.multigpu_core.comfy.split.patcher import placement_of  # importable where ComfyUI is

    return placement_of(model) is not None


__getattr__ = lazily(__name__, _MODULES)
