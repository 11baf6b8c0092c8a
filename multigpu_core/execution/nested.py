"""Tensors inside the arguments and results of a call: dicts, lists, tuples, named tuples and dataclasses of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

Replace = Callable[[Tensor], Tensor]
_ATOMS = frozenset({str, int, float, bool, type(None)})


def replace_tensors(tree: Any, replace: Replace, *, in_place: bool = False) -> Any:
    """`tree` with every tensor replaced; what holds no replaced tensor stays the object that it is.

    With `in_place`, dicts and lists keep their identity and get the new tensors, so that what the callee writes into
    them reaches the caller; tuples and dataclasses are always made anew.
    """
    return _Walk(replace, in_place).call(tree)


class _Walk:
    def __init__(self, replace: Replace, in_place: bool) -> None:
        self._replace = replace
        self._in_place = in_place
        self._done: dict[int, Any] = {}

    def call(self, value: Any) -> Any:
        if type(value) in _ATOMS:  # the most frequent, and this is done for every block
            return value
        if isinstance(value, Tensor):
            return self._replace(value)
        if isinstance(value, dict):
            return self._container(value, value.items())
        if isinstance(value, list):
            return self._container(value, enumerate(value))
        if isinstance(value, tuple):
            return self._tuple(value)
        if hasattr(type(value), "__dataclass_fields__"):
            return self._dataclass(value)
        return value

    def _container(self, value: Any, items: Iterable[tuple[Any, Any]]) -> Any:
        if id(value) in self._done:  # shared, or inside itself
            return self._done[id(value)]
        self._done[id(value)] = value
        changed = [(key, new) for key, item in items if (new := self.call(item)) is not item]
        if changed and not self._in_place:
            value = self._done[id(value)] = copy.copy(value)
        for key, new in changed:
            value[key] = new
        return value

    def _tuple(self, value: tuple[Any, ...]) -> Any:
        items = [self.call(item) for item in value]
        if all(new is item for new, item in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)

    def _dataclass(self, value: Any) -> Any:
        made = value
        for name in type(value).__dataclass_fields__:
            item = getattr(value, name, None)
            new = self.call(item)
            if new is not item:
                made = copy.copy(value) if made is value else made
                # A copy of the model's own object, which may be frozen. `dataclasses.replace` would run its checks
                # again, and refuses fields that its constructor does not take.
                object.__setattr__(made, name, new)
        return made
