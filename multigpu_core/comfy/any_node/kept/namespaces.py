"""Find the modules of a node pack, also those that no import registered.

Packs execute files that `sys.modules` never sees, or put folders of their own on `sys.path`, so names say nothing. A
module is the pack's if its `__file__` is in the pack's folder. It is found in `sys.modules`, or because a function or
class of a module that was found is from there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType, ModuleType
from typing import Any

Namespace = dict[str, Any]
"""The globals of one module."""


class PackNamespaces:
    """The modules of one pack, looked for again at each call: a node may import more."""

    def __init__(self, path: str, nodes: Callable[[], Iterable[type]]) -> None:
        """`path` is the pack's folder or its single file, `nodes` finds its node classes."""
        ends = os.sep if os.path.isdir(path) else ""
        self._prefixes = tuple({each + ends for each in (path, os.path.realpath(path))})
        self._nodes = nodes

    def find(self) -> list[Namespace]:
        """The globals of each module of the pack."""
        found: dict[int, Namespace] = {}
        waiting = [vars(module) for module in list(sys.modules.values()) if self._holds(vars(module).get("__file__"))]
        waiting += [namespace for node in self._nodes() for namespace in _behind(node)]
        while waiting:
            namespace = waiting.pop()
            if id(namespace) in found or not self._holds(namespace.get("__file__")):
                continue
            found[id(namespace)] = namespace
            waiting += [other for value in list(namespace.values()) for other in _behind(value)]
        return list(found.values())

    def _holds(self, file: object) -> bool:
        return isinstance(file, str) and file.startswith(self._prefixes)


def _behind(value: object) -> Iterator[Namespace]:
    """The globals of the modules that a value is, or that its functions are from."""
    if isinstance(value, ModuleType):
        yield vars(value)
    elif isinstance(value, FunctionType):
        yield value.__globals__
    elif isinstance(value, type):
        for each in vars(value).values():
            function = getattr(each, "__func__", each)
            if isinstance(function, FunctionType):
                yield function.__globals__
                return
