"""Apple's GPU, which shares its memory with the processor."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch

from multigpu.multigpu_core.devices.backends.host_memory import read_host_memory

from .base import DeviceBackend, MemoryReading


class MpsBackend(DeviceBackend):
    indexed = False

    def __init__(
        self,
        module: Any = None,
        available: Callable[[], bool] | None = None,
        read_host: Callable[[], MemoryReading] = read_host_memory,
    ) -> None:
        self._module = torch.mps if module is None else module
        self._available = available or torch.backends.mps.is_available
        self._read_host = read_host

    @property
    def type(self) -> str:
        return "mps"

    def count(self) -> int:
        return int(self._available())

    def memory(self, index: int) -> MemoryReading:
        host = self._read_host()
        allocated = self._module.current_allocated_memory()
        cached = self._module.driver_allocated_memory() - allocated
        # Metal's recommended working set is a limit for the GPU alone; the memory itself is shared with the host.
        has_limit = hasattr(self._module, "recommended_max_memory")
        total_bytes = self._module.recommended_max_memory() if has_limit else host.total_bytes
        return MemoryReading(max(0, min(total_bytes - allocated, host.free_bytes + cached)), total_bytes)

    def marketing_name(self, index: int) -> str:
        return f"Apple GPU ({platform.machine()})"

    def empty_cache(self, index: int) -> None:
        self._module.empty_cache()

    def synchronize(self, index: int) -> None:
        self._module.synchronize()
