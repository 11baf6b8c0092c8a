"""The input of an unload policy: data only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class UnloadReason(str, Enum):
    USER_FREED = "user_freed"
    """Someone asked ComfyUI to unload all models: a button, a route, a node."""
    EJECT = "eject"
    """A node asked for an empty compute device before its own load."""
    MEMORY_PRESSURE = "memory_pressure"
    """A split model is about to be stored on a donor device that has no room for it."""


@dataclass(frozen=True)
class LoadedModelInfo:
    """One model that ComfyUI has loaded. `key` is good for the one call only; sizes are bytes."""

    key: int
    name: str
    device: str
    loaded_bytes: int
    is_ours: bool
    """It came from one of our nodes."""
    keep_loaded: bool
    """Its node asked to keep it."""
