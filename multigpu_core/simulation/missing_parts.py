"""What PyTorch's Python backends cannot do by themselves: follow the current device, and load files.

PyTorch asks a backend in C++ for its current device and for raw memory. One that is written in Python can answer
neither: a device without a number is then always the first, and loading a file to a device ends the process.
"""

from __future__ import annotations

from functools import wraps
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

_BEFORE_TORCH_S_OWN = 15
"""Priority of a way to load storages: after that for the CPU (10), before those for accelerators."""


def let_torch_find_devices(backend: str, module: ModuleType) -> None:
    """Let `Tensor.to` and `torch.load` find devices of `backend`, for the rest of this process."""
    Tensor.to = _following_current_device(Tensor.to, backend, module)  # type: ignore[method-assign]

    def restored(storage: Any, location: str) -> torch.UntypedStorage | None:
        return _on_device(storage, location) if location.partition(":")[0] == backend else None

    torch.serialization.register_package(_BEFORE_TORCH_S_OWN, lambda storage: None, restored)


def _following_current_device(to: Any, backend: str, module: ModuleType) -> Any:
    unnumbered = torch.device(backend)

    def numbered(value: Any) -> Any:
        is_unnumbered = value == backend if isinstance(value, str) else value == unnumbered
        return torch.device(backend, module.current_device()) if is_unnumbered else value

    @wraps(to)
    def to_device(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], (str, torch.device)):
            args = (numbered(args[0]), *args[1:])
        elif isinstance(kwargs.get("device"), (str, torch.device)):
            kwargs = {**kwargs, "device": numbered(kwargs["device"])}
        result: Tensor = to(self, *args, **kwargs)
        return result

    return to_device


def _on_device(storage: Any, location: str) -> torch.UntypedStorage:
    untyped = storage if isinstance(storage, torch.UntypedStorage) else storage.untyped()
    values = torch.empty(0, dtype=torch.uint8).set_(untyped)
    return values.to(location).untyped_storage()
