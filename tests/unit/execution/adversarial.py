"""What hides mistakes of order in a test, taken away: see `unfavourable`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from multigpu.multigpu_core.simulation.deferral import Order
from multigpu.testing import SimulatedMachine

ORDERS: tuple[Order, ...] = ("late", 1, 2)


@contextmanager
def unfavourable(machine: SimulatedMachine, order: Order) -> Iterator[None]:
    """Run work when that is least welcome, look for races, and compute in inference mode as ComfyUI does."""
    with torch.inference_mode(), machine.deferred(order), machine.detecting_races():
        yield


@contextmanager
def unfavourable_on_two_threads(machine: SimulatedMachine, order: Order) -> Iterator[None]:
    """The same without a look at the host's own accesses: a mode of this thread keeps halves from being alternated."""
    machine.detect_races = True
    try:
        with torch.inference_mode(), machine.deferred(order):
            yield
    finally:
        machine.detect_races = False


class PinnedInputs:
    """Inputs that are copied to the compute device while the host goes on."""

    def __init__(self, machine: SimulatedMachine, device: str) -> None:
        self._machine = machine
        self._device = device
        self._pinned: list[Tensor] = []

    def send(self, values: Tensor) -> Tensor:
        pinned = self._machine.empty_pinned(values.nbytes).view(values.dtype).view(values.shape)
        self._pinned.append(pinned.copy_(values))  # it must outlive the copy
        return pinned.to(self._device, non_blocking=True)
