"""Facts about one device that can hold tensors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DeviceInfo:
    """One device at one moment.

    `name` is how users write it in nodes and allocation strings (``cpu``, ``cuda:0``, ``mps``); it is canonical, so two
    infos with the same name are the same device. `total_bytes` and `free_bytes` come from the backend itself;
    `free_bytes` counts memory that the backend's caching allocator holds but does not use as free.
    """

    name: str
    type: str
    index: int | None
    marketing_name: str
    total_bytes: int
    free_bytes: int
    can_pin_host_memory: bool
    """Host memory can be pinned for faster, asynchronous copies to this device."""
    has_streams: bool
    """Copies to this device can run on a stream of their own beside its compute."""
