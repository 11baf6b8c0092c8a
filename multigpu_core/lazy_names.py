"""The public modules `multigpu.api` and `multigpu.testing` load a name's module when the name is first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(module: str, names_of: Mapping[str, tuple[str, ...]]) -> Callable[[str], Any]:
    """The `__getattr__` of the module of that name: `names_of` are the names in each module of `multigpu_core`."""
    where = {name: source for source, names in names_of.items() for name in names}

    def attribute(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return getattr(import_module(f"multigpu.multigpu_core.{where[name]}"), name)

    return attribute
