"""Kernels that launch on the current device, wherever their tensors are.

Torch's own operators make the device of their tensors the current one. Kernels that are given raw pointers (Triton's,
those of quantised formats) launch on whatever device is current. If that is another one, a real machine computes
garbage or ends the process.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase

import torch


class WrongCurrentDeviceError(RuntimeError):
    """`operator` was called for tensors on `device` while `current` was the current device."""

    def __init__(self, operator: str, device: str, current: str) -> None:
        self.operator = operator
        self.device = device
        self.current = current
        super().__init__(
            f"{operator} got tensors on {device} while {current} is the current device. It is given raw pointers, so "
            f"it launches on the current device. Make {device} the current device around the call."
        )


class Launches:
    """Checks the operators that `by_raw_pointer` names, as ``namespace::name``, where ``*`` stands for anything."""

    def __init__(self, current_device: Callable[[], torch.device]) -> None:
        self._current_device = current_device
        self.by_raw_pointer: set[str] = set()

    def check(self, operator: str, device: torch.device) -> None:
        """Raise `WrongCurrentDeviceError` if such an operator is called for tensors of another device."""
        if self.by_raw_pointer and any(fnmatchcase(operator, pattern) for pattern in self.by_raw_pointer):
            self.require_current(operator, device)

    def require_current(self, operator: str, device: torch.device) -> None:
        """Raise `WrongCurrentDeviceError` unless that device is the current one."""
        current = self._current_device()
        if current != device:
            raise WrongCurrentDeviceError(operator, str(device), str(current))
