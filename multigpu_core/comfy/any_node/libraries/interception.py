"""Replace functions of libraries while a node runs on a chosen device, and restore them after the last such call.

A replacement is in place for the whole process, so each asks for the current choice and is the library's own function
where there is none. Libraries that are imported during a call are served as well.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import structlog

log = structlog.get_logger("multigpu")

Function = Callable[..., Any]


@dataclass(frozen=True)
class Intercepted:
    """A function by its module and dotted name, and what makes its replacement from it."""

    module: str
    name: str
    wrap: Callable[[Function], Function]


@dataclass(frozen=True)
class _Installed:
    owner: Any
    name: str
    found: Any
    is_own: bool
    """The owner has the function itself, rather than from a base class."""
    replacement: Any

    def restore(self) -> None:
        """Put the library's function back; where somebody has wrapped ours since, theirs stays."""
        if inspect.getattr_static(self.owner, self.name, None) is not self.replacement:
            return
        if self.is_own:
            setattr(self.owner, self.name, self.found)
        else:
            delattr(self.owner, self.name)


class Interception:
    """The replacements of one framework: in place while at least one call is inside `installed`."""

    def __init__(self, points: Iterable[Intercepted]) -> None:
        self._points = tuple(points)
        self._users = 0
        self._installed: list[_Installed] = []
        self._changing = threading.RLock()
        self._finder = _AfterImport({point.module for point in self._points}, self._install)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Have all replacements in place until the block is left."""
        with self._changing:
            self._users += 1
            if self._users == 1:
                for name in dict.fromkeys(point.module for point in self._points):
                    if (module := sys.modules.get(name)) is not None:
                        self._install(module)
                sys.meta_path.insert(0, self._finder)
        try:
            yield
        finally:
            with self._changing:
                self._users -= 1
                if self._users == 0:
                    sys.meta_path.remove(self._finder)
                    while self._installed:
                        self._installed.pop().restore()

    def _install(self, module: ModuleType) -> None:
        with self._changing:
            if not self._users:
                return
            for point in self._points:
                if point.module == module.__name__ and (installed := _installed(point, module)) is not None:
                    self._installed.append(installed)


def _installed(point: Intercepted, module: ModuleType) -> _Installed | None:
    """Replace one function; None where this version of the library has none of the name."""
    *path, name = point.name.split(".")
    owner: Any = module
    for part in path:
        owner = getattr(owner, part, None)
    found = inspect.getattr_static(owner, name, None) if owner is not None else None
    if found is None:
        return None
    kind = type(found) if isinstance(found, (classmethod, staticmethod)) else None
    original = found.__func__ if kind is not None else found
    made = functools.wraps(original)(point.wrap(original))
    replacement = kind(made) if kind is not None else made
    installed = _Installed(owner, name, found, name in vars(owner), replacement)
    setattr(owner, name, replacement)
    return installed


class _AfterImport(MetaPathFinder):
    """Calls `then` with each of some modules when it has been imported."""

    def __init__(self, names: set[str], then: Callable[[ModuleType], None]) -> None:
        self._names = names
        self._then = then
        self._searching = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._names or getattr(self._searching, "name", None) == fullname:
            return None
        self._searching.name = fullname
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._searching.name = None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_tell(module: ModuleType) -> None:
                execute(module)
                self._then(module)

            spec.loader.exec_module = execute_and_tell  # type: ignore[method-assign]  # this spec's own loader object
        return spec
