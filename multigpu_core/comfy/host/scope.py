"""The devices that a loader called by one of our nodes shall see instead of ComfyUI's own choice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class DeviceScope:
    """What ComfyUI's device selection answers while a wrapped loader runs.

    `offload` and `initial` are None where ComfyUI's own answer stands. `initial` is where weights are put when they are
    read from the file, before the first load; a split sets it, so that loading never fills the compute device.
    """

    model: torch.device
    text_encoder: torch.device
    vae: torch.device
    offload: torch.device | None = None
    initial: torch.device | None = None


_current: ContextVar[DeviceScope | None] = ContextVar("multigpu_device_scope", default=None)


def current_scope() -> DeviceScope | None:
    """The scope of the loader that is running in this context, or None outside our own nodes' calls."""
    return _current.get()


@contextmanager
def device_scope(scope: DeviceScope | None) -> Iterator[None]:
    """Let ComfyUI's device selection answer from `scope`, in this context only, until the block is left.

    With None it answers as if none of our nodes were at work.
    """
    token = _current.set(scope)
    try:
        yield
    finally:
        _current.reset(token)
