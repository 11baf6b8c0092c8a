"""`torch.Generator(device=…)` for simulated devices, which PyTorch's Python backends cannot provide themselves."""

from __future__ import annotations

from typing import Any

import torch


class _GeneratorType(type(torch._C.Generator)):  # type: ignore[misc]
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, torch._C.Generator)


class SimulatedGenerator(torch._C.Generator, metaclass=_GeneratorType):
    """A drop-in for `torch.Generator`: for a simulated device, the numbers come from a CPU generator."""

    _asked: torch.device

    def __new__(cls, device: Any = "cpu") -> SimulatedGenerator:
        asked = torch.device(device)
        simulated = asked.type == torch._C._get_privateuse1_backend_name()
        real = torch.device("cpu") if simulated else asked
        generator: SimulatedGenerator = torch._C.Generator.__new__(cls, real)  # type: ignore[call-arg]
        generator._asked = asked
        return generator

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._asked
