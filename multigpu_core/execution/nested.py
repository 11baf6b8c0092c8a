"""Tensors inside the arguments and results of a call: dicts, lists, tuples, named tuples and dataclasses of them.

An argument may also be an object of the model's own that holds tensors, or a function that was made with some: LTX-2
passes its timesteps so, Qwen-Image 2.1 its attention with the masks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from types import CellType, FunctionType
from typing import Any

from torch import Tensor

Replace = Callable[[Tensor], Tensor]
_ATOMS = frozenset({str, int, float, bool, type(None)})


def replace_tensors(tree: Any, replace: Replace, *, in_place: bool = False) -> Any:
    """`tree` with every tensor replaced; what holds no replaced tensor stays the object that it is.

    With `in_place`, dicts and lists keep their identity and get the new tensors, so that what the callee writes into
    them reaches the caller; tuples, dataclasses and other objects are always made anew. Of an object that is no
    dataclass, only the tensors right in it are replaced, and of a function those of the variables that it took from
    the function around it. Both only where they are `tree` itself: what lies deeper, in the options of a sampling, is
    somebody else's and may hold anything.
    """
    walk = _Walk(replace, in_place)
    if isinstance(tree, FunctionType):
        return walk.function(tree)
    return walk.holder(tree) if _holds_tensors(tree) else walk.call(tree)


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
        return self._with_attributes(value, type(value).__dataclass_fields__)

    def holder(self, value: Any) -> Any:
        """An object that is no dataclass, with the tensors right in it replaced."""
        return self._with_attributes(value, [name for name, item in _attributes(value) if isinstance(item, Tensor)])

    def function(self, value: FunctionType) -> FunctionType:
        """A function with other tensors in its closure."""
        cells = value.__closure__ or ()
        made = tuple(self._cell(cell) for cell in cells)
        if all(new is cell for new, cell in zip(made, cells, strict=True)):
            return value
        copied = FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, made)
        copied.__kwdefaults__ = value.__kwdefaults__
        copied.__dict__.update(value.__dict__)
        return copied

    def _cell(self, cell: CellType) -> CellType:
        try:
            held = cell.cell_contents
        except ValueError:  # a variable that has no value yet
            return cell
        new = self.call(held)
        return cell if new is held else CellType(new)

    def _with_attributes(self, value: Any, names: Iterable[str]) -> Any:
        made = value
        for name in names:
            item = getattr(value, name, None)
            new = self.call(item)
            if new is not item:
                made = copy.copy(value) if made is value else made
                # A copy of the model's own object, which may be frozen. `dataclasses.replace` would run its checks
                # again, and refuses fields that its constructor does not take.
                object.__setattr__(made, name, new)
        return made


def _holds_tensors(value: Any) -> bool:
    """Whether a value is a plain object with tensors among its attributes; modules and functions are none."""
    if isinstance(value, (Tensor, dict, list, tuple)) or type(value) in _ATOMS or callable(value):
        return False
    if hasattr(type(value), "__dataclass_fields__"):
        return False
    return any(isinstance(item, Tensor) for _, item in _attributes(value))


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds, in its dictionary and in its slots."""
    yield from getattr(value, "__dict__", {}).items()
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                yield name, getattr(value, name)
