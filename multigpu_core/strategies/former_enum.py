"""What `Strategy` could do while it was an enum of three, for plugins that were written then. Deprecated."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib import import_module
from typing import Any


class FormerEnum(type):
    """`Strategy("relay")` returns the built-in strategy of that name, and `for each in Strategy` goes through all."""

    def __call__(cls, *args: Any, **more: Any) -> Any:
        if len(args) == 1 and not more:
            _warn(f"Strategy({args[0]!r:.80})", "Strategy.RELAY and its like")
            return _built_in().named(args[0])
        return super().__call__(*args, **more)

    def __iter__(cls) -> Iterator[Any]:
        _warn("Going through Strategy", "Strategy.INTERLEAVE, Strategy.CONTIGUOUS and Strategy.RELAY")
        return iter(_built_in())


class FormerMember:
    """The names of a strategy that was a member of the enum and a text."""

    name: str

    @property
    def value(self) -> str:
        _warn("Strategy.value", "Strategy.name")
        return self.name


def _built_in() -> Any:
    return import_module(f"{__package__}.built_in").built_in_strategies()


def _warn(former: str, instead: str) -> None:
    warnings.warn(f"{former} is deprecated: use {instead}.", DeprecationWarning, stacklevel=3)
