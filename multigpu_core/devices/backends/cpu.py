"""The host's processor and its memory."""

from __future__ import annotations

import platform
from collections.abc import Callable

from multigpu.multigpu_core.devices.backends.host_memory import read_host_memory

from .base import DeviceBackend, MemoryReading


class CpuBackend(DeviceBackend):
    indexed = False

    def __init__(self, read_memory: Callable[[], MemoryReading] = read_host_memory) -> None:
        self._read_memory = read_memory

    @property
    def type(self) -> str:
        return "cpu"

    def count(self) -> int:
        return 1

    def memory(self, index: int) -> MemoryReading:
        return self._read_memory()

    def marketing_name(self, index: int) -> str:
        return platform.processor() or platform.machine() or "cpu"
