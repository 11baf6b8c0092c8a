"""Which devices something that a pack made is on: a model, a cache of models, an object around one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any

import torch
from torch import nn

DEPTH = 5
OBJECTS = 2_000
"""How many objects are looked at: what is kept is near the top."""
WEIGHTS = 8
"""How many weights of a module are looked at; few modules are on several devices."""
PLAIN = (str, bytes, int, float, bool, type(None), type, torch.dtype)


def tensors_in(value: object, depth: int = DEPTH) -> Iterator[torch.Tensor]:
    """Tensors that a value is or holds, at first those that are nearest; of a module a few weights."""
    for each in _nearest(value, depth, ignored=PLAIN):
        if isinstance(each, nn.Module):
            yield from islice(chain(each.parameters(), each.buffers()), WEIGHTS)
        else:
            yield each


def modules_in(value: object, depth: int = DEPTH) -> Iterator[nn.Module]:
    """The outermost torch modules that a value is or holds."""
    for each in _nearest(value, depth, ignored=(*PLAIN, torch.Tensor)):
        assert isinstance(each, nn.Module), "tensors are ignored"
        yield each


def _nearest(value: object, depth: int, ignored: tuple[type, ...]) -> Iterator[torch.Tensor | nn.Module]:
    """Tensors and modules that a value is or holds, layer by layer, each once; what these hold is not looked into."""
    seen: set[int] = set()
    layer = [value]
    for _ in range(depth):
        below: list[object] = []
        for each in layer:
            if isinstance(each, ignored) or id(each) in seen or len(seen) > OBJECTS:
                continue
            seen.add(id(each))
            if isinstance(each, (torch.Tensor, nn.Module)):
                yield each
            else:
                below += children(each)
        layer = below


def children(value: Any) -> list[object]:
    """What a container or an object holds; nothing of a module, class or function."""
    if isinstance(value, Mapping):
        return list(islice(value.values(), OBJECTS))
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(islice(value, OBJECTS))
    if callable(value) and not hasattr(value, "__dict__"):
        return []
    fields = getattr(value, "__dict__", None)
    return list(fields.values()) if isinstance(fields, dict) and not hasattr(value, "__spec__") else []


def devices_held(value: object) -> frozenset[torch.device]:
    """The devices of a value's tensors. A patcher counts with the device on which it computes.

    Its weights may be in system memory now.
    """
    return frozenset(tensor.device for tensor in tensors_in(value)) | frozenset(_load_devices(value))


def _load_devices(value: object) -> Iterator[torch.device]:
    for each in (value, *(children(value) if not isinstance(value, (*PLAIN, torch.Tensor, nn.Module)) else ())):
        fields = getattr(each, "__dict__", None)
        device = fields.get("load_device") if isinstance(fields, dict) else None
        if isinstance(device, torch.device):
            yield device


def accelerators_held(value: object) -> frozenset[torch.device]:
    return frozenset(device for device in devices_held(value) if device.type not in ("cpu", "meta"))


def holds_model(value: object) -> bool:
    """Whether a value is or holds a torch module or a tensor on an accelerator."""
    return next(modules_in(value), None) is not None or bool(accelerators_held(value))
