"""DynamicVRAM on simulated accelerators: ComfyUI's own patchers and file reader, over stand-ins for comfy-aimdo.

comfy-aimdo is a driver for real cards. Here no weight finds room in its virtual memory, so ComfyUI takes each one from
the file when an operator asks for it: the path that a card without memory left takes.
"""

from __future__ import annotations

import importlib
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest


class HostBuffer:
    """Page-locked memory, of which there is none."""

    def __init__(self, size: int, prewarm: int = 0, max_grow_size: int = 0, mark_cold: bool = True) -> None:
        self.size = 0

    def extend(self, size: int, reallocate: bool = False, register: bool = True) -> int:
        raise RuntimeError("no page-locked memory")

    def truncate(self, size: int, do_unregister: bool = True) -> None:
        self.size = size


class ModelVBAR:
    """The addresses of one model on a card, none of which ever gets memory."""

    def __init__(self, size: int, device: int) -> None:
        self._end = 0

    def prioritize(self) -> None: ...

    def alloc(self, size: int) -> tuple[ModelVBAR, int, int]:
        self._end += size
        return self, self._end - size, size

    def fault(self, address: int, size: int) -> None:
        return None

    def unpin(self, address: int, size: int) -> None: ...

    def loaded_size(self) -> int:
        return 0

    def free_memory(self, size: int) -> int:
        return 0


class ModelMMAP:
    """A file in memory. Nothing can be read from it past this memory."""

    def __init__(self, path: str | Path) -> None:
        with Path(path).open("rb") as file:
            self._bytes = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8)

    def get(self) -> int:
        return int(self._bytes.ctypes.data)

    def get_file_handle(self) -> None:
        return None

    def bounce(self) -> bool:
        return True


def switch_on(monkeypatch: pytest.MonkeyPatch) -> type:
    """What ComfyUI's start-up does where a card has DynamicVRAM. Returns the class that patchers are then made of."""
    patchers: Any = importlib.import_module("comfy.model_patcher")
    for stand_in, module in ((HostBuffer, "host_buffer"), (ModelVBAR, "model_vbar"), (ModelMMAP, "model_mmap")):
        try:
            monkeypatch.setattr(importlib.import_module(f"comfy_aimdo.{module}"), stand_in.__name__, stand_in)
        except (ImportError, AttributeError):
            pytest.skip(f"this ComfyUI is used with a comfy-aimdo that has no {stand_in.__name__}")
    monkeypatch.setattr(importlib.import_module("comfy.memory_management"), "aimdo_enabled", True)
    monkeypatch.setattr(patchers, "CoreModelPatcher", patchers.ModelPatcherDynamic)
    dynamic: type = patchers.ModelPatcherDynamic
    return dynamic
