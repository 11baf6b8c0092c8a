"""The plain tensors that hold a tensor's numbers, and the same tensor over other ones.

Quantised tensors come in two kinds: wrappers, which hold codes and scales as tensors and say so by torch's flatten
protocol, and subclasses with numbers and attributes of their own (GGML). Both travel as they are stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

_PLAIN = (torch.Tensor, nn.Parameter)


def parts_of(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The plain tensors that hold the numbers of `tensor`, in a fixed order."""
    return tuple(_parts(tensor))


def with_parts(tensor: torch.Tensor, parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """A tensor like `tensor`, its class and attributes included, over other parts, which are as `parts_of` gives."""
    return _rebuilt(tensor, iter(parts))


def _parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    flatten = _flatten_of(tensor)
    if flatten is None:
        # A subclass may show another shape than it stores, and call what it likes a detached tensor.
        with torch._C.DisableTorchFunctionSubclass():
            yield tensor.as_subclass(torch.Tensor).detach()
        return
    names, _ = flatten()
    for name in names:
        yield from _parts(getattr(tensor, name))


def _rebuilt(tensor: torch.Tensor, parts: Iterator[torch.Tensor]) -> torch.Tensor:
    flatten = _flatten_of(tensor)
    if flatten is not None:
        names, context = flatten()
        inner = {name: _rebuilt(getattr(tensor, name), parts) for name in names}
        rebuilt: torch.Tensor = type(tensor).__tensor_unflatten__(  # type: ignore[attr-defined]
            inner, context, tensor.shape, tensor.stride()
        )
        return rebuilt
    part = next(parts)
    if type(tensor) in _PLAIN:
        return part
    # Not as_subclass: that makes a view, which would keep its memory even when it is given other data.
    like: torch.Tensor = torch.Tensor._make_subclass(type(tensor), part)
    like.__dict__.update(tensor.__dict__)
    return like


def _flatten_of(tensor: torch.Tensor) -> Any:
    return None if type(tensor) in _PLAIN else getattr(tensor, "__tensor_flatten__", None)
