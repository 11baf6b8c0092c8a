"""DirectML adapters (Windows), which torch_directml hands out as device objects of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import torch

from .base import DeviceBackend, MemoryReading
from .vendor import VendorPackage

ASSUMED_BYTES = 1 << 30
"""What ComfyUI assumes of an adapter, since DirectML does not tell; used where Windows does not tell either."""

DISPLAY_ADAPTERS = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"


class DirectMLBackend(DeviceBackend):
    """Adapters by the order in which torch_directml counts them.

    `adapter_bytes` gives the memory of the adapter with a marketing name, or None where it is not known.
    """

    def __init__(self, package: VendorPackage, adapter_bytes: Callable[[str], int | None] | None = None) -> None:
        self._package = package
        self._adapter_bytes = adapter_bytes or adapter_bytes_from_windows

    @property
    def type(self) -> str:
        return "directml"

    @property
    def torch_type(self) -> str:
        return "privateuseone"

    @property
    def aliases(self) -> tuple[str, ...]:
        return ("dml", "privateuseone")

    def count(self) -> int:
        self._package.raise_if_broken()
        return int(self._package.module.device_count()) if self._package.module is not None else 0

    def memory(self, index: int) -> MemoryReading:
        total_bytes = self._adapter_bytes(self.marketing_name(index)) or ASSUMED_BYTES
        # One fill level for each tile of 1 MB; several drivers report zeros, and then all memory looks free.
        used_bytes = int(sum(self._package.module.gpu_memory(index, 1)) * (1 << 20))
        return MemoryReading(max(0, total_bytes - used_bytes), total_bytes)

    def marketing_name(self, index: int) -> str:
        return str(self._package.module.device_name(index)).rstrip("\0 ")

    def torch_device(self, index: int) -> torch.device:
        device: torch.device = self._package.module.device(index)
        return device

    def current_index(self) -> int:
        return int(self._package.module.default_device())

    def synchronize(self, index: int) -> None:
        torch.zeros(1, device=self.torch_device(index)).cpu()  # its queue is first in, first out


def adapter_bytes_from_windows(marketing_name: str) -> int | None:
    """The dedicated memory that the display driver wrote into the registry for an adapter of this name."""
    return next((size for name, size in _registered_adapters() if name == marketing_name), None)


def _registered_adapters() -> Iterator[tuple[str, int]]:
    if sys.platform != "win32":
        return
    import winreg

    with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, DISPLAY_ADAPTERS) as adapters:
        for position in range(winreg.QueryInfoKey(adapters)[0]):
            try:
                with winreg.OpenKey(adapters, winreg.EnumKey(adapters, position)) as adapter:
                    name = winreg.QueryValueEx(adapter, "DriverDesc")[0]
                    yield name, winreg.QueryValueEx(adapter, "HardwareInformation.qwMemorySize")[0]
            except OSError:  # Not an adapter, or one that may not be read.
                continue
