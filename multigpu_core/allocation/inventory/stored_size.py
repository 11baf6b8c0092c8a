"""How many bytes a tensor really stores and in which type, whatever its shape and class claim."""

from __future__ import annotations

import torch
from torch import nn

_PLAIN_TENSORS = (torch.Tensor, nn.Parameter)


def tensor_bytes(tensor: torch.Tensor) -> int:
    """Bytes that `tensor` keeps on its device.

    A quantised tensor counts its codes and its scales, not the numbers that it stands for, and a meta tensor what it
    would store. Two views of one storage each count what they show.
    """
    inner = _inner_tensors(tensor)
    if inner:
        return sum(tensor_bytes(part) for part in inner)
    return tensor.numel() * tensor.element_size()


def storage_dtype_name(tensor: torch.Tensor) -> str:
    """The type in which `tensor` is stored, as in ``bfloat16``, ``float8_e4m3fn`` or, for GGML types, ``Q4_K``."""
    if type(tensor) in _PLAIN_TENSORS:
        return str(tensor.dtype).removeprefix("torch.")
    ggml_type = getattr(getattr(tensor, "tensor_type", None), "name", None)
    if ggml_type is not None:
        return str(ggml_type)
    inner = _inner_tensors(tensor)
    if inner:
        return storage_dtype_name(inner[0])
    return str(tensor.dtype).removeprefix("torch.")


def _inner_tensors(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The plain tensors behind a wrapper, its main data first; none for a tensor that stores its own numbers."""
    if type(tensor) in _PLAIN_TENSORS:
        return []
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        return []
    names, _ = flatten()
    return [getattr(tensor, name) for name in names]
