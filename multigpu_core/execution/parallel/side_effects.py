"""Detect whether a forward has side effects that another one could see.

A model that keeps a value on itself at the beginning of its forward and reads it at the end is right only where one
forward follows another. So is one that draws random numbers, if the same seed is to make the same picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class SideEffects:
    """What a model's modules hold, and the state of torch's random generators, as they are now."""

    def __init__(self, module: nn.Module, devices: Iterable[torch.device]) -> None:
        self._module = module
        self._devices = tuple(devices)
        self._held = self._look()
        self._versions = _versions(self._held)
        self._generators = self._generator_states()

    def have_happened(self) -> bool:
        """Whether anything has changed since: attributes, what dicts, lists and tensors in them hold, generators."""
        held = self._look()
        is_same = held.keys() == self._held.keys() and all(held[key] is value for key, value in self._held.items())
        generators = zip(self._generators, self._generator_states(), strict=True)
        are_unused = all(torch.equal(before, after) for before, after in generators)
        return not (is_same and are_unused and self._versions == _versions(held))

    def _look(self) -> dict[tuple[Any, ...], Any]:
        return {(id(module), *key): value for module in self._module.modules() for key, value in _held_by(module)}

    def _generator_states(self) -> list[Tensor]:
        of_devices: list[tuple[Any, torch.device]] = [(getattr(torch, each.type, None), each) for each in self._devices]
        states = [backend.get_rng_state(each) for backend, each in of_devices if hasattr(backend, "get_rng_state")]
        return [torch.get_rng_state(), *states]


def _versions(held: Mapping[tuple[Any, ...], Any]) -> dict[tuple[Any, ...], int]:
    """How often each tensor was changed in place, where torch counts it."""
    tensors = ((key, value) for key, value in held.items() if isinstance(value, Tensor) and not value.is_inference())
    return {key: tensor._version for key, tensor in tensors}


def _held_by(module: nn.Module) -> Iterator[tuple[tuple[Any, ...], Any]]:
    for name, value in vars(module).items():
        yield (name,), value
        if isinstance(value, dict):
            yield from (((name, key), held) for key, held in value.items())
        elif isinstance(value, list):
            yield from (((name, index), held) for index, held in enumerate(value))
