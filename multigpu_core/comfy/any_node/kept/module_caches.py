"""Give each device a view of its own on the models that a pack keeps in its modules.

Packs keep models in globals and in dicts whose keys do not say where a model is. During a call the pack sees what it
kept on the chosen device, and afterwards what it kept on the home device, so each finds its own model again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from multigpu.multigpu_core.comfy.any_node.choice import Choice

from .held_devices import accelerators_held, holds_model
from .slots import Slot, SlotId

_MISSING = object()


class ModuleCaches:
    """What one pack keeps on devices other than the home device."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[SlotId, tuple[Slot, Any]]] = {}
        self._changing = threading.Lock()

    def release(self) -> None:
        """Forget what the pack kept on other devices; it loads its models again when they are wanted."""
        with self._changing:
            self._kept.clear()

    def models(self) -> list[tuple[str, Any]]:
        """What is kept now, by device."""
        with self._changing:
            return [(device, value) for device, kept in self._kept.items() for _, value in kept.values()]

    @contextmanager
    def shown(self, slots: list[Slot], slots_after: Callable[[], list[Slot]], choice: Choice) -> Iterator[None]:
        """The pack's modules hold the chosen device's models, and no others, until the block is left.

        `slots` are the pack's places now, and `slots_after` finds those that there are after the call.
        """
        if choice.device == choice.home:
            yield
            return
        hidden = _hide(slots, choice)
        with self._changing:
            kept = self._kept.pop(choice.name, {})
        before = {slot.id: slot.get(_MISSING) for slot in slots}
        for slot, value in kept.values():
            slot.set(value)
        try:
            yield
        finally:
            taken = _take_out(slots_after(), before)
            for slot, value in hidden:
                slot.set(value)
            with self._changing:
                self._kept[choice.name] = taken


def _hide(slots: list[Slot], choice: Choice) -> list[tuple[Slot, Any]]:
    """Take models on other accelerators out of their places, where the pack then finds none."""
    hidden = []
    for slot in slots:
        value = slot.get()
        held = accelerators_held(value)
        if not held or choice.device in held or _is_container(slot, value):
            continue
        if slot.is_cache_entry or slot.begins_as_none:
            hidden.append((slot, value))
            if slot.begins_as_none:
                slot.set(None)
            else:
                slot.remove()
    return hidden


def _take_out(slots: list[Slot], before: dict[SlotId, Any]) -> dict[SlotId, tuple[Slot, Any]]:
    """Take what the call kept, and what it found of earlier calls on its device, out of their places."""
    taken = {}
    for slot in slots:
        value, former = slot.get(), before.get(slot.id, _MISSING)
        if value is former or _is_container(slot, value) or not holds_model(value):
            continue
        taken[slot.id] = slot, value
        if former is not _MISSING:
            slot.set(former)
        elif slot.begins_as_none:
            slot.set(None)
        else:
            slot.remove()
    return taken


def _is_container(slot: Slot, value: object) -> bool:
    """A dict in a place that is named in the source: its entries are places themselves."""
    return isinstance(value, dict) and not slot.is_cache_entry
