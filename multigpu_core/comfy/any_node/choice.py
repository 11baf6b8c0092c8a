"""The device chosen for a node's call, and which spellings of a device mean it during that call."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from multigpu.multigpu_core.comfy.host.scope import Devices
from multigpu.multigpu_core.devices import DeviceRegistry

_SPELLING = re.compile(r"[a-z]+(:\d+)?")


@dataclass(frozen=True)
class Choice:
    """Where a node runs during one call."""

    registry: DeviceRegistry
    devices: Devices
    """What ComfyUI's device selection answers."""
    home: torch.device
    """ComfyUI's own device: where the node would run otherwise."""
    redirects: bool = False
    """Strings and numbers in torch calls that name the home device mean the chosen one."""

    @property
    def device(self) -> torch.device:
        return self.devices.compute

    @property
    def name(self) -> str:
        return self.registry.name_of(self.device)

    @property
    def changes_family(self) -> bool:
        """Whether torch's current device cannot express the choice: the cpu where packs say ``cuda``."""
        return self.device.type != self.home.type

    def means_home(self, value: object) -> bool:
        """Whether a string, number or torch device names the home device by its number."""
        if isinstance(value, int) and not isinstance(value, bool):
            return value == self.home.index
        device = named_device(value)
        return device is not None and device == self.home

    def is_unnumbered(self, value: object) -> bool:
        """Whether `value` names the home device's family without a number, as in ``cuda``."""
        device = named_device(value)
        return device is not None and device.index is None and device.type == self.home.type != "cpu"

    def instead_of(self, value: Any) -> Any:
        """The chosen device in the form of `value` where that means home or the family; else `value` itself."""
        if not (self.means_home(value) or self.is_unnumbered(value)):
            return value
        if isinstance(value, torch.device):
            return self.device
        if isinstance(value, int) and self.device.index is not None and not self.changes_family:
            return self.device.index
        return str(self.device)


def named_device(value: object) -> torch.device | None:
    """The accelerator or cpu that a torch device or a string such as ``cuda:1`` names; None for anything else."""
    if isinstance(value, torch.device):
        return value
    if not isinstance(value, str) or _SPELLING.fullmatch(value) is None:
        return None
    try:
        return torch.device(value)
    except RuntimeError:  # another word
        return None


_current: ContextVar[Choice | None] = ContextVar("multigpu_chosen_device", default=None)


def current_choice() -> Choice | None:
    """The choice of the node that runs in this context, or None outside such calls."""
    return _current.get()


@contextmanager
def choosing(choice: Choice | None) -> Iterator[None]:
    """Let `current_choice` answer with `choice`, in this context only, until the block is left."""
    token = _current.set(choice)
    try:
        yield
    finally:
        _current.reset(token)
