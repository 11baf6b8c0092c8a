"""Copy the structure of a model: its modules, and what they hold, for another device. Tensors are not copied.

A copy of a module is of the same class and has the same attributes. Where these are modules of the model, methods of
such modules, or the device, the copy has its own, also inside of lists, tuples and dicts. Functions that refer to the
model past their arguments still refer to the original.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MethodType
from typing import Any

import torch
from torch import nn

_OWN = ("_parameters", "_buffers", "_modules")
_DEEPEST = 3
"""Containers inside of containers that are looked through."""


def copied_structure(root: nn.Module, here: torch.device, there: torch.device) -> nn.Module:
    """A model for the device `there` of one for `here`. Its parameters and buffers are the original's."""
    copies: dict[int, nn.Module] = {}
    for module in root.modules():
        copies[id(module)] = type(module).__new__(type(module))
    mapped = _Mapped(copies, here, there)
    for module in root.modules():
        attributes = {name: mapped(value) for name, value in vars(module).items() if name not in _OWN}
        tables = {name: dict(vars(module)[name]) for name in _OWN}
        tables["_modules"] = {name: copies.get(id(child)) for name, child in module._modules.items()}
        vars(copies[id(module)]).update(attributes, **tables)
    return copies[id(root)]


class Appearance:
    """What a model's modules are and hold, tensors apart: to notice that a copy is no longer like the original."""

    def __init__(self, root: nn.Module) -> None:
        self._held = _held(root)

    def is_that_of(self, root: nn.Module) -> bool:
        """Whether a model is made of the same modules, and these hold the same objects."""
        held = _held(root)
        return len(held) == len(self._held) and all(
            module is before
            and attributes.keys() == earlier.keys()
            and all(value is earlier[name] for name, value in attributes.items())
            for (module, attributes), (before, earlier) in zip(held, self._held, strict=True)
        )


def _held(root: nn.Module) -> list[tuple[nn.Module, dict[str, Any]]]:
    return [
        (module, {**{name: value for name, value in vars(module).items() if _is_of_the_model(name)}, **module._modules})
        for module in root.modules()
    ]


def _is_of_the_model(name: str) -> bool:
    """Not the tables that torch keeps of a module: hooks come and go."""
    return name not in _OWN and not name.endswith("_hooks") and "_hooks_" not in name


class _Mapped:
    """Maps what a module holds to what its copy holds."""

    def __init__(self, copies: Mapping[int, nn.Module], here: torch.device, there: torch.device) -> None:
        self._copies = copies
        self._here = here
        self._there = there

    def __call__(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, nn.Module):
            return self._copies.get(id(value), value)
        if isinstance(value, MethodType):
            owner = self._copies.get(id(value.__self__))
            return MethodType(value.__func__, owner) if owner is not None else value
        if isinstance(value, torch.device):
            return self._there if value == self._here else value
        if isinstance(value, torch.Tensor):
            return value.to(self._there) if value.device == self._here else value
        if type(value) not in (dict, list, tuple) and not _is_table(value):
            return value
        return self._container(value, depth + 1) if depth < _DEEPEST else value

    def _container(self, value: Any, depth: int) -> Any:
        """A container of its own in any case: forwards keep values in those of their module."""
        if isinstance(value, dict):
            copied = value.copy()
            for name, item in value.items():
                copied[name] = self(item, depth)
            return copied
        return type(value)(self(item, depth) for item in value)


def _is_table(value: Any) -> bool:
    """Torch's tables of hooks are of a class of their own."""
    return isinstance(value, dict) and type(value).__name__ == "OrderedDict"
