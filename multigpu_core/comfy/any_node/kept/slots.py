"""The places where a pack keeps something between calls: globals, entries of global dicts, attributes of its classes.

The attributes of its global objects count as well, so that a cache in a manager object is seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from .namespaces import Namespace

SlotId = tuple[int, object]
NUMBERS = (bool, int, float, bytes)
LONGEST_DEVICE_NAME = 20
"""In characters: a family and a number."""


@dataclass(frozen=True)
class Slot:
    """One place. `owner` is a dict, or an object or class with the attribute `key`."""

    owner: Any
    key: Any
    file: str
    """The source file of its module."""

    @property
    def id(self) -> SlotId:
        return id(self.owner), self.key

    def get(self, default: Any = None) -> Any:
        if isinstance(self.owner, dict):
            return self.owner.get(self.key, default)
        return vars(self.owner).get(self.key, default)

    def set(self, value: Any) -> None:
        if isinstance(self.owner, dict):
            self.owner[self.key] = value
        else:
            setattr(self.owner, self.key, value)

    def remove(self) -> None:
        """Leave the place as it was before anything was kept there."""
        if isinstance(self.owner, dict):
            self.owner.pop(self.key, None)
        elif self.key in vars(self.owner):
            delattr(self.owner, self.key)

    @property
    def is_cache_entry(self) -> bool:
        """An entry of a dict, which a pack adds and looks for; other places are named in the source."""
        return isinstance(self.owner, dict) and "__name__" not in self.owner

    @property
    def begins_as_none(self) -> bool:
        """Whether the source sets the place to None before anything is kept there."""
        return isinstance(self.key, str) and self.key in _none_at_first(self.file)


def slots_of(namespaces: Iterable[Namespace]) -> list[Slot]:
    """Every place of a pack, each once."""
    found: dict[SlotId, Slot] = {}
    namespaces = list(namespaces)
    modules = {str(namespace.get("__name__")) for namespace in namespaces}
    for namespace in namespaces:
        for slot in _slots_in(namespace, modules):
            found.setdefault(slot.id, slot)
    return list(found.values())


def _slots_in(namespace: Namespace, modules: set[str]) -> Iterator[Slot]:
    file = str(namespace.get("__file__"))
    for name, value in list(namespace.items()):
        if name.startswith("__"):
            continue
        if isinstance(value, type):
            if value.__module__ in modules:
                yield from (Slot(value, key, file) for key in _own_attributes(value))
            continue
        yield Slot(namespace, name, file)
        if isinstance(value, dict):
            yield from _entries(value, file)
        elif type(value).__module__ in modules and not isinstance(value, (torch.nn.Module, torch.Tensor)):
            yield from (Slot(value, key, file) for key in _own_attributes(value))
            for held in list(getattr(value, "__dict__", {}).values()):
                if isinstance(held, dict):
                    yield from _entries(held, file)


def _entries(held: dict[Any, Any], file: str) -> Iterator[Slot]:
    """The entries of a dict that may be a device or hold a model: some packs have tables of many thousand words."""
    for key, value in list(held.items()):
        if not isinstance(value, NUMBERS) and not (isinstance(value, str) and len(value) > LONGEST_DEVICE_NAME):
            yield Slot(held, key, file)


def _own_attributes(owner: Any) -> list[str]:
    """Attributes that hold data: the functions and descriptors of a class are left out."""
    return [
        name
        for name, value in list(getattr(owner, "__dict__", {}).items())
        if not name.startswith("__") and not isinstance(value, type) and not hasattr(type(value), "__get__")
    ]


@lru_cache(maxsize=1024)
def _none_at_first(file: str) -> frozenset[str]:
    try:
        source = Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    return frozenset(re.findall(r"^\s*(?:self\.|cls\.)?(\w+)\s*(?::[^=\n]+)?=\s*None\b", source, re.MULTILINE))
