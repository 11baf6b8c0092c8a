"""Load a model as if ComfyUI ran without DynamicVRAM, which decides by itself where weights are stored.

It takes more than another patcher class: under DynamicVRAM weights keep the dtype of their file until an operator casts
them, which only its own patchers let operators do.

ComfyUI's switch is two attributes of modules, which belong to every thread and coroutine. So they are never written:
while `SwitchedModules` is installed, reading them asks whether the context that reads is inside of
`without_dynamic_vram`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from .comfyui_names import MissingNameError
from .compatibility import declared

_is_off: ContextVar[bool] = ContextVar("multigpu_without_dynamic_vram", default=False)


@contextmanager
def without_dynamic_vram() -> Iterator[None]:
    """Let core's loaders do what they do with --disable-dynamic-vram, in this context only, until the block is left."""
    token = _is_off.set(True)
    try:
        yield
    finally:
        _is_off.reset(token)


class _UnlessOff:
    """An attribute of a module that reads as `otherwise(module)` inside of `without_dynamic_vram`."""

    def __init__(self, otherwise: Callable[[Any], Any]) -> None:
        self._otherwise = otherwise

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, module: ModuleType, owner: type) -> Any:
        if _is_off.get():
            return self._otherwise(module)
        try:
            return vars(module)[self._name]
        except KeyError:
            raise AttributeError(f"module {module.__name__!r} has no attribute {self._name!r}") from None

    def __set__(self, module: ModuleType, value: Any) -> None:
        vars(module)[self._name] = value

    def __delete__(self, module: ModuleType) -> None:
        del vars(module)[self._name]


class _MemoryManagement(ModuleType):
    aimdo_enabled = _UnlessOff(lambda module: False)


class _ModelPatchers(ModuleType):
    CoreModelPatcher = _UnlessOff(lambda module: module.ModelPatcher)


SWITCHED = {
    "comfy.memory_management.aimdo_enabled": _MemoryManagement,
    "comfy.model_patcher.CoreModelPatcher": _ModelPatchers,
}


class SwitchedModules:
    """Make the two modules of ComfyUI's switch follow the context, until they are restored."""

    def __init__(self) -> None:
        self._classes: list[tuple[ModuleType, type[ModuleType]]] = []

    def install(self) -> None:
        """Switch what this ComfyUI has: start-up has said what it lacks."""
        for name, switched in SWITCHED.items():
            try:
                module, _ = declared(name).place
            except MissingNameError:
                continue
            self._classes.append((module, module.__class__))
            module.__class__ = switched

    def restore(self) -> None:
        while self._classes:
            module, own = self._classes.pop()
            module.__class__ = own
