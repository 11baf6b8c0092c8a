"""How a name of ComfyUI is declared, checked at start-up, and reached: when it is used, and not when we are imported.

compatibility.py has the list of all names. It is the one file to change for another version of ComfyUI.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import reduce
from typing import Any

WAY_OUT = "Use a ComfyUI that docs/compatibility.md names, or a version of this extension for yours."


class MissingNameError(AttributeError):
    """This ComfyUI lacks a name of the list. `missing` is the name, `features` are what is off without it."""

    def __init__(self, missing: str, features: Iterable[Enum]) -> None:
        self.missing = missing
        self.features = tuple(features)
        off = ", ".join(str(feature.value) for feature in self.features)
        super().__init__(f"This ComfyUI has no {missing}. That switches off: {off}. {WAY_OUT}")


@dataclass(frozen=True)
class ComfyUIName:
    """Something in ComfyUI, by module and dotted name, and what depends on it."""

    module: str
    name: str
    features: tuple[Enum, ...]
    """What is off where it is gone or has changed."""
    parameters: tuple[str, ...] = ()
    """The parameters that we give to it or take in its place."""
    is_replaced: bool = False
    """Whether we put a function in its place: then it must be a function itself."""
    is_optional: bool = False
    """Whether tested versions lack it, so that its absence is no fault."""
    only_with: str = ""
    """Another name, as in `moved_to`: it came together with this one, so without it nothing is missing."""
    moved_to: str = ""
    """Where other versions of ComfyUI have it: module, colon, dotted name."""

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def place(self) -> tuple[Any, str]:
        """The module or class of this ComfyUI that has it, and its name there.

        Raises:
            MissingNameError: this ComfyUI lacks it.
        """
        cause: Exception | None = None
        for where in filter(None, (f"{self.module}:{self.name}", self.moved_to)):
            module, _, name = where.partition(":")
            *path, last = name.split(".")
            try:
                owner = reduce(getattr, path, importlib.import_module(module))
                getattr(owner, last)
            except (ImportError, AttributeError) as error:
                cause = error
            else:
                return owner, last
        raise MissingNameError(str(self), self.features) from cause

    @property
    def fault(self) -> str:
        """What is wrong with it in this ComfyUI; empty if nothing is."""
        try:
            found = getattr(*self.place)
        except MissingNameError:
            return "" if self.is_optional or not self.is_due else f"{self} is gone"
        is_usable = inspect.isfunction(found) if self.is_replaced else callable(found) or not self.parameters
        if not is_usable:
            return f"{self} is not a function"
        taken = inspect.signature(found).parameters if self.parameters else ()
        lacking = [name for name in self.parameters if name not in taken]
        return f"{self} takes no {', '.join(lacking)}" if lacking else ""

    @property
    def is_due(self) -> bool:
        """Whether this ComfyUI should have it."""
        if not self.only_with:
            return True
        module, _, name = self.only_with.partition(":")
        try:
            reduce(getattr, name.split("."), importlib.import_module(module))
        except (ImportError, AttributeError):
            return False
        return True


class ComfyUIModule:
    """A module of ComfyUI, imported when a name of it is used. Reads and writes go to the module itself."""

    def __init__(self, module: str, names: Iterable[ComfyUIName]) -> None:
        vars(self).update(_module=module, _names=dict(_attributes(each for each in names if each.module == module)))

    def __repr__(self) -> str:
        return str(self._module)

    def __getattr__(self, name: str) -> Any:
        """Return the module's attribute.

        Raises:
            MissingNameError: this ComfyUI lacks it.
            AttributeError: the list of names lacks it.
        """
        return getattr(*self._declared(name).place)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(*self._declared(name).place, value)

    def _declared(self, name: str) -> ComfyUIName:
        declared: ComfyUIName | None = self._names.get(name)
        if declared is None:
            raise AttributeError(f"{self}.{name} is not in the list of ComfyUI's names: see compatibility.py")
        return declared


def _attributes(names: Iterable[ComfyUIName]) -> Iterator[tuple[str, ComfyUIName]]:
    """The attributes of a module that lead to `names`, each with all features that depend on it."""
    found: dict[str, ComfyUIName] = {}
    for each in names:
        attribute, _, inside = each.name.partition(".")
        before = found.get(attribute)
        features = dict.fromkeys((*(before.features if before else ()), *each.features))
        moved_to = (before.moved_to if before else "") or ("" if inside else each.moved_to)
        found[attribute] = replace(each, name=attribute, features=tuple(features), moved_to=moved_to)
    yield from found.items()
