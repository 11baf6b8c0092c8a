"""Hand a node's results on where the next node expects them."""

from __future__ import annotations

import copy
from typing import Any

import torch

from .choice import Choice

DATA_TYPES = frozenset({"IMAGE", "MASK", "LATENT", "CONDITIONING", "AUDIO", "NOISE", "SIGMAS"})
"""Types of ComfyUI that are computed data: they go to its intermediate device. Models stay where they are."""
PLAIN_TYPES = frozenset({"STRING", "INT", "FLOAT", "BOOLEAN", "COMBO", "*"})
DEPTH = 8


def at_home(value: Any, device: torch.device, depth: int = DEPTH) -> Any:
    """`value` with all its tensors on `device`; the same object where they are there already."""
    if isinstance(value, torch.Tensor):
        return value if value.device == device else value.to(device)
    if depth == 0:
        return value
    if isinstance(value, dict):
        moved = {key: at_home(each, device, depth - 1) for key, each in value.items()}
        return value if all(moved[key] is value[key] for key in value) else type(value)(moved)
    if type(value) in (list, tuple):
        items = [at_home(each, device, depth - 1) for each in value]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else type(value)(items)
    return value


def noise_at_home(value: Any, device: torch.device) -> Any:
    """A NOISE object, a copy of it where it holds tensors on another device."""
    fields = getattr(value, "__dict__", None)
    if not isinstance(fields, dict):
        return at_home(value, device)
    moved = at_home(fields, device)
    if moved is fields:
        return value
    copied = copy.copy(value)
    vars(copied).update(moved)
    return copied


def with_explicit_devices(value: Any, choice: Choice) -> Any:
    """An object of a pack whose fields say ``cuda`` without a number: they name the chosen device now.

    The next node that uses the object would take its own current device.
    """
    fields = value if isinstance(value, dict) else getattr(value, "__dict__", None)
    if not isinstance(fields, dict):
        return value
    for name, held in list(fields.items()):
        if choice.is_unnumbered(held) and (isinstance(held, torch.device) or "device" in str(name)):
            _set(value, name, choice.instead_of(held))
    return value


def _set(value: Any, name: str, device: Any) -> None:
    if isinstance(value, dict):
        value[name] = device
    else:
        setattr(value, name, device)
