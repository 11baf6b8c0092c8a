"""DynamicVRAM on simulated accelerators: ComfyUI's own patchers and file reader, over stand-ins for comfy-aimdo.

comfy-aimdo is a driver for real cards. It gives each model addresses on its card, and memory for them page by page when
an operator asks for a weight. When memory runs short, it takes pages of other models away again. Here the pages
are accounted in the simulated card's ledger, are smaller, as the models are, and hold NaN when they are taken away.

There is no pinned memory for it: weights come from the file's mapping.
"""

from __future__ import annotations

import importlib
import itertools
import mmap
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from multigpu.multigpu_core.simulation.machine import SimulatedMachine
from multigpu.multigpu_core.simulation.memory.ledger import SimulatedDevice
from multigpu.multigpu_core.simulation.tensors import host_view, place

PAGE = 64 << 10
"""Bytes; the driver's pages have 32 MiB."""
NOTHING = 0xFF
"""Each byte of a page without memory: NaN in every floating-point dtype."""
_versions = itertools.count(1)


class HostBuffer:
    """Pinned memory, of which there is none."""

    def __init__(self, size: int, prewarm: int = 0, max_grow_size: int = 0, mark_cold: bool = True) -> None:
        self.size = 0

    def extend(self, size: int, reallocate: bool = False, register: bool = True) -> int:
        raise RuntimeError("no pinned memory")

    def truncate(self, size: int, do_unregister: bool = True) -> None:
        self.size = size


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


class Driver:
    """Grants the cards' memory to the addresses of models, and takes it back: from the least important model first."""

    def __init__(self, machine: SimulatedMachine) -> None:
        self._machine = machine
        self.models: list[ModelVBAR] = []
        """The most important one is last."""

    def card(self, index: int) -> SimulatedDevice:
        return self._machine.device(index)

    def on(self, card: SimulatedDevice) -> Iterator[ModelVBAR]:
        return (model for model in list(self.models) if model.card is card)

    def grant(self, model: ModelVBAR) -> bool:
        """Take a page of the card for a model, if need be from models that are less important."""
        while model.card.free_bytes < PAGE:
            less_important = itertools.takewhile(lambda other: other is not model, self.on(model.card))
            if not any(other.free_memory(PAGE) for other in less_important):
                return False
        model.card.charge(PAGE)
        return True

    def reclaim(self, card: SimulatedDevice, size: int) -> None:
        """Make room for an ordinary allocation, as the driver does that stands before the card's allocator."""
        for model in self.on(card):
            if card.free_bytes >= size:
                return
            model.free_memory(size - card.free_bytes)


class ModelVBAR:
    """The addresses of one model on a card, and which of their pages have memory."""

    driver: Driver

    def __init__(self, size: int, device: int, pageout_callback: object = None) -> None:
        self.card = self.driver.card(device)
        addresses = SimulatedDevice(self.card.torch_device, "addresses without memory", sys.maxsize)
        with torch.inference_mode(False):
            self._memory = place(torch.empty(int(size), dtype=torch.uint8), addresses)
        self._end = 0
        self._granted: dict[int, int] = {}  # a page's number -> which grant of it this is
        self._pins: dict[int, int] = {}
        self._watermark = sys.maxsize
        self.prioritize()

    def prioritize(self, malloc_async_clamp: int | None = None) -> None:
        """Make this the most important model, which may have all its pages again."""
        models = self.driver.models
        models[:] = [*(model for model in models if model is not self), self]
        self.reset_watermark()

    def reset_watermark(self) -> None:
        self._watermark = sys.maxsize

    def alloc(self, size: int) -> tuple[ModelVBAR, int, int]:
        begin = -(-self._end // 512) * 512
        self._end = begin + size
        assert self._end <= self._memory.numel(), "no addresses left"
        return self, self._memory.data_ptr() + begin, size

    def fault(self, address: int, size: int) -> array[int] | None:
        """Give memory to these addresses and pin it; None where there is none left.

        What is returned differs from the last time if any page has lost its contents since.
        """
        pages = self._pages(address, size)
        for page in pages:
            if page >= self._watermark or (page not in self._granted and not self.driver.grant(self)):
                self._watermark = min(self._watermark, page)
                return None
            self._granted.setdefault(page, next(_versions))
        for page in pages:
            self._pins[page] = self._pins.get(page, 0) + 1
        return array("Q", (self._granted[page] for page in pages))

    def unpin(self, address: int, size: int) -> None:
        for page in self._pages(address, size):
            if not self._pins.get(page):
                raise RuntimeError(f"page {page} is not pinned")
            self._pins[page] -= 1

    def loaded_size(self) -> int:
        return PAGE * len(self._granted)

    @property
    def pinned_pages(self) -> int:
        return sum(count > 0 for count in self._pins.values())

    def free_memory(self, size: float) -> int:
        """Take memory from the last pages that are not pinned; they get none before this model is important again."""
        freed = 0
        for page in sorted(self._granted, reverse=True):
            if freed >= size:
                break
            if not self._pins.get(page):
                self._take(page)
                freed += PAGE
                self._watermark = page
        return freed

    def at(self, address: int, size: int) -> Tensor:
        """The tensor of the bytes at these addresses."""
        begin = address - self._memory.data_ptr()
        return self._memory[begin : begin + size]

    def _take(self, page: int) -> None:
        host_view(self._memory)[page * PAGE : (page + 1) * PAGE].fill_(NOTHING)
        del self._granted[page]
        self.card.release(PAGE)

    def _pages(self, address: int, size: int) -> range:
        begin = address - self._memory.data_ptr()
        return range(begin // PAGE, -(-(begin + size) // PAGE))

    def close(self) -> None:
        """End the addresses and give back their memory; a second time changes nothing."""
        self.driver.models[:] = [model for model in self.driver.models if model is not self]
        self.card.release(PAGE * len(self._granted))
        self._granted.clear()

    def __del__(self) -> None:
        self.close()


def switch_on(monkeypatch: pytest.MonkeyPatch, machine: SimulatedMachine) -> type:
    """What ComfyUI's start-up does where a card has DynamicVRAM. Returns the class that patchers are then made of."""
    patchers: Any = importlib.import_module("comfy.model_patcher")
    driver = Driver(machine)
    vbars = type("ModelVBAR", (ModelVBAR,), {"driver": driver})
    for stand_in, module in ((HostBuffer, "host_buffer"), (vbars, "model_vbar"), (ModelMMAP, "model_mmap")):
        try:
            monkeypatch.setattr(importlib.import_module(f"comfy_aimdo.{module}"), stand_in.__name__, stand_in)
        except (ImportError, AttributeError):
            pytest.skip(f"this ComfyUI is used with a comfy-aimdo that has no {stand_in.__name__}")

    def analyze(device: int | None = None) -> int:
        return sum(model.loaded_size() for model in driver.on(driver.card(device or 0)))

    def reset_watermarks() -> None:
        for model in driver.models:
            model.reset_watermark()

    functions: Any = importlib.import_module("comfy_aimdo.model_vbar")
    monkeypatch.setattr(functions, "vbars_analyze", analyze)
    monkeypatch.setattr(functions, "vbars_reset_watermark_limits", reset_watermarks)
    tensors: Any = importlib.import_module("comfy_aimdo.torch")
    monkeypatch.setattr(tensors, "aimdo_to_tensor", lambda allocated, device: allocated[0].at(*allocated[1:]))
    monkeypatch.setattr(SimulatedDevice, "require", _reclaiming(driver, SimulatedDevice.require))
    monkeypatch.setattr(importlib.import_module("comfy.memory_management"), "aimdo_enabled", True)
    monkeypatch.setattr(patchers, "CoreModelPatcher", patchers.ModelPatcherDynamic)
    dynamic: type = patchers.ModelPatcherDynamic
    return dynamic


def _reclaiming(driver: Driver, require: Any) -> Any:
    def reclaim_or_require(card: SimulatedDevice, size: int) -> None:
        if size > card.free_bytes:
            driver.reclaim(card, size)
        require(card, size)

    return reclaim_or_require
