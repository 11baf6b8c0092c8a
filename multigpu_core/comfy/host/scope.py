"""Where models are: the one type that says so, and the scope in which ComfyUI's device selection answers with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Devices:
    """Where the models of one loader compute, and where their weights wait.

    Device *names* (``cuda:1``) are for people and plugins: widgets, requests, plans, logs. Between the modules of this
    room a place is a value of this type.
    """

    compute: torch.device
    """For diffusion models, and for everything else that has no field of its own."""
    text_encoder: torch.device | None = None
    """None: on `compute`, too."""
    vae: torch.device | None = None
    """None: on `compute`, too."""
    offload: torch.device | None = None
    """Where weights wait that are not needed now; None for ComfyUI's own choice."""
    initial: torch.device | None = None
    """Where weights are put when they are read from the file; None for ComfyUI's own choice.

    A split sets it to the cpu, so that reading the file never fills the compute device.
    """

    @property
    def of_text_encoder(self) -> torch.device:
        return self.text_encoder or self.compute

    @property
    def of_vae(self) -> torch.device:
        return self.vae or self.compute

    @property
    def computing(self) -> frozenset[torch.device]:
        """Every device that computes one of the models."""
        return frozenset((self.compute, self.of_text_encoder, self.of_vae))


_current: ContextVar[Devices | None] = ContextVar("multigpu_device_scope", default=None)


def current_scope() -> Devices | None:
    """The devices of the loader that is running in this context, or None outside our own nodes' calls."""
    return _current.get()


@contextmanager
def device_scope(devices: Devices | None) -> Iterator[None]:
    """Let ComfyUI's device selection answer with `devices`, in this context only, until the block is left.

    With None it answers as if none of our nodes were at work.
    """
    token = _current.set(devices)
    try:
        yield
    finally:
        _current.reset(token)
