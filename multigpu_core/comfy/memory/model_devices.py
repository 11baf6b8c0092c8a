"""Remembers the device of every model that our nodes made, for as long as the model lives."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import comfy.model_patcher
import torch
from torch import nn

from multigpu.multigpu_core.comfy.host.scope import Devices
from multigpu.multigpu_core.comfy.nodes.loader_outputs import patcher_of


class ModelDevices:
    """Models by weak reference, found again whatever a pack wraps them in."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Any], Devices]] = {}

    def __len__(self) -> int:
        """How many models are remembered: those that still live."""
        return len(self._known)

    def remember(self, value: Any, devices: Devices) -> None:
        """Remember the models that a loader's output is or holds."""
        for model in _models_in(value):
            key = id(model)
            self._known[key] = (weakref.ref(model, partial(self._forget, key)), devices)

    def of(self, value: Any) -> Devices | None:
        """The devices of a model that arrives at a node; None for one that is not ours."""
        for model in _models_in(value):
            known = self._known.get(id(model))
            if known is not None and known[0]() is model:
                return _as_moved(value, known[1])
        return None

    def compute_on(self, device: torch.device) -> bool:
        """Whether a model that still lives was loaded for this device."""
        return any(devices.compute == device for _, devices in list(self._known.values()))

    def _forget(self, key: int, _: weakref.ref[Any]) -> None:
        self._known.pop(key, None)


def decisive_model(inputs: Mapping[str, Any], types: Mapping[str, str], model_types: Iterable[str]) -> Any | None:
    """Among a node's inputs, of the given types by name, the model that decides on the node's device."""
    for model_type in model_types:
        for name, value in inputs.items():
            if value is not None and types.get(name) == model_type:
                return value
    return None


def _as_moved(value: Any, devices: Devices) -> Devices:
    """Other nodes may have moved a patcher since: it says itself where it computes."""
    patcher = patcher_of(value)
    return replace(devices, compute=patcher.load_device) if patcher is not None else devices


def _models_in(value: Any) -> Iterator[Any]:
    """What can be remembered of a value.

    A dict has no weak references, so its models stand for it: packs hand out dicts of a model, its processor and its
    dtype, and the model alone is nobody else's.
    """
    if isinstance(value, Mapping):
        yield from (held for held in value.values() if _is_model(held))
    elif (patcher := patcher_of(value)) is not None:
        yield patcher.model
    elif hasattr(type(value), "__weakref__"):
        yield value


def _is_model(value: Any) -> bool:
    """A module, or a plain object around one."""
    held = vars(value).values() if hasattr(value, "__dict__") else ()
    return isinstance(value, (nn.Module, comfy.model_patcher.ModelPatcher)) or any(
        isinstance(each, nn.Module) for each in held
    )
