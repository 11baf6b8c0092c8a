"""A device backend: one pretended device, `toy:0`, whose memory is the host's."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from multigpu import hookimpl
from multigpu.api import DeviceBackend, MemoryReading


class ToyBackend(DeviceBackend):
    @property
    def type(self) -> str:
        return "toy"

    def count(self) -> int:
        return 1

    def memory(self, index: int) -> MemoryReading:
        return MemoryReading(free_bytes=3 << 30, total_bytes=4 << 30)

    def marketing_name(self, index: int) -> str:
        return "A toy accelerator"

    def torch_device(self, index: int) -> torch.device:
        return torch.device("meta")


@hookimpl
def multigpu_device_backends() -> Iterable[DeviceBackend]:
    return [ToyBackend()]
