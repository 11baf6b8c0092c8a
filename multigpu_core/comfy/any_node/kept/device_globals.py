"""Set the devices that a pack keeps in its modules to the chosen one for a call, and restore them after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from multigpu.multigpu_core.comfy.any_node.choice import Choice, named_device

from .slots import Slot, SlotId


@contextmanager
def devices_set(slots: list[Slot], slots_after: Callable[[], list[Slot]], choice: Choice) -> Iterator[None]:
    """Every place that names the home device names the chosen one until the block is left.

    `slots` are the pack's places now, and `slots_after` finds those that there are after the call.
    A place that the call fills, or a module that it imports, names the chosen device afterwards: it gets what it had
    before, or the home device.
    """
    before: dict[SlotId, Any] = {}
    for slot in slots:
        value = slot.get()
        if isinstance(value, (str, torch.device, type(None))):
            before[slot.id] = value
            if _is_replaced(choice, value):
                slot.set(choice.instead_of(value))
    try:
        yield
    finally:
        for slot in slots_after():
            value = slot.get()
            if _names(choice.device, value):
                slot.set(before.get(slot.id, _in_form_of(value, choice.home)))


def _is_replaced(choice: Choice, value: object) -> bool:
    """The family without a number follows torch's current device by itself, unless another family is chosen."""
    if choice.is_unnumbered(value):
        return choice.changes_family
    return named_device(value) is not None and choice.means_home(value)


def _names(device: torch.device, value: object) -> bool:
    return named_device(value) == device


def _in_form_of(value: object, device: torch.device) -> object:
    return device if isinstance(value, torch.device) else str(device)
