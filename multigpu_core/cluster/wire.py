"""What is sent to another machine: plain values and tensors, never code.

A tree of values becomes JSON, in which tensors are numbered, and the bytes of the tensors beside it, which an engine
sends without copying them into the JSON. Reading one builds nothing but these types, and checks its sizes first.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch

from multigpu.multigpu_core.bounded_json import depth_of

MAX_TEXT_BYTES = 32 << 20
MAX_TENSOR_BYTES = 16 << 30
"""Of all tensors of one message; a minute of 720p video as floats has 15 GB."""
MAX_TENSORS = 4096
MAX_DEPTH = 40
_DTYPES = {str(each).removeprefix("torch."): each for each in vars(torch).values() if isinstance(each, torch.dtype)}


class WireError(ValueError):
    """A value cannot be sent, or a message is not one of ours."""


@dataclass(frozen=True)
class Message:
    """A tree of values, packed: `text` is its JSON, `buffers` the bytes of its tensors by their numbers."""

    text: bytes
    buffers: tuple[np.ndarray[Any, np.dtype[np.uint8]], ...] = ()

    @property
    def size_bytes(self) -> int:
        return len(self.text) + sum(buffer.nbytes for buffer in self.buffers)


def pack(value: Any) -> Message:
    """Pack None, truth values, numbers, texts, tensors on any device, and lists, tuples and dicts with them.

    Raises:
        WireError: there is something else in it; the message names it.
    """
    buffers: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
    text = json.dumps(_plain(value, buffers, 0), ensure_ascii=False).encode("utf-8", "surrogatepass")
    message = Message(text, tuple(buffers))
    _check_sizes(message)
    return message


def unpack(message: Message) -> Any:
    """The value of a message; its tensors are on the cpu, in memory of their own.

    Raises:
        WireError: it is none of ours, or too large.
    """
    _check_sizes(message)
    if depth_of(message.text) > 2 * MAX_DEPTH:
        raise WireError(f"The message is nested more than {MAX_DEPTH} levels deep.")
    try:
        return _value(json.loads(message.text.decode("utf-8", "surrogatepass")), message)
    except (KeyError, TypeError, IndexError, ValueError, RuntimeError) as error:
        raise WireError(f"The message is not one of ours: {error}") from error


def _check_sizes(message: Message) -> None:
    tensors = sum(buffer.nbytes for buffer in message.buffers)
    if len(message.text) > MAX_TEXT_BYTES or tensors > MAX_TENSOR_BYTES or len(message.buffers) > MAX_TENSORS:
        raise WireError(
            f"A message of {len(message.text):,} bytes of values and {len(message.buffers):,} tensors of {tensors:,} "
            f"bytes is too large: at most {MAX_TEXT_BYTES:,}, {MAX_TENSORS:,} and {MAX_TENSOR_BYTES:,} are sent."
        )


def _plain(value: Any, buffers: list[Any], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise WireError(f"A value nested more than {MAX_DEPTH} levels deep is not sent to another machine.")
    if value is None or isinstance(value, bool | str) or type(value) in (int, float):
        return value
    if isinstance(value, torch.Tensor):
        return _packed_tensor(value, buffers)
    if isinstance(value, np.generic):
        return _plain(value.item(), buffers, depth)
    if isinstance(value, list):
        return [_plain(each, buffers, depth + 1) for each in value]
    if isinstance(value, tuple):
        return {"tuple": [_plain(each, buffers, depth + 1) for each in value]}
    if isinstance(value, dict):
        pairs = [[_plain(key, buffers, depth + 1), _plain(each, buffers, depth + 1)] for key, each in value.items()]
        return {"dict": pairs}
    raise WireError(f"A {type(value).__module__}.{type(value).__qualname__} is not sent to another machine.")


def _packed_tensor(tensor: torch.Tensor, buffers: list[Any]) -> Any:
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized:
        raise WireError(f"A tensor of layout {tensor.layout} is not sent to another machine.")
    dtype = str(tensor.dtype).removeprefix("torch.")
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    buffers.append(flat.view(torch.uint8).numpy())
    return {"tensor": [len(buffers) - 1, dtype, list(tensor.shape)]}


def _value(plain: Any, message: Message) -> Any:
    if isinstance(plain, list):
        return [_value(each, message) for each in plain]
    if not isinstance(plain, dict):
        return plain
    ((kind, content),) = plain.items()
    return _READERS[kind](content, message)


def _read_tensor(content: Any, message: Message) -> torch.Tensor:
    number, dtype_name, shape = content
    dtype, buffer = _DTYPES[dtype_name], message.buffers[number]
    if buffer.dtype != np.uint8 or min(shape, default=0) < 0 or prod(shape) * dtype.itemsize != buffer.nbytes:
        raise WireError(f"a tensor of {buffer.nbytes} bytes is not {dtype_name} of {shape}")
    # A copy: models write into what they are given, and an engine's own memory is read-only.
    tensor = torch.empty(shape, dtype=dtype)
    if buffer.nbytes:
        tensor.reshape(-1).view(torch.uint8).numpy()[:] = buffer
    return tensor


_READERS: dict[str, Callable[[Any, Message], Any]] = {
    "tuple": lambda content, message: tuple(_value(each, message) for each in content),
    "dict": lambda content, message: {_value(key, message): _value(each, message) for key, each in content},
    "tensor": _read_tensor,
}
