"""The face that every family of devices shows to the registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch

from .streams import Streams


class MemoryReading(NamedTuple):
    """One device's memory at one moment, in bytes; cached but unused memory counts as free."""

    free_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class DeviceActivity:
    """How busy and how warm a device is, as its driver reports it; None where it does not."""

    utilization_percent: int | None = None
    temperature_celsius: int | None = None


class DeviceBackend(ABC):
    """One family of devices (all CUDA cards, all NPUs, the cpu), addressed by index.

    Only `count`, `memory` and `marketing_name` need an implementation; the defaults suit a family without caches,
    streams or a current device. Every method may raise what the driver raises: the registry reports it.
    """

    indexed: bool = True
    """Whether names carry an index (``cuda:0``); a family without one (``cpu``) has one device at most."""

    @property
    @abstractmethod
    def type(self) -> str:
        """The family's name as users write it."""

    @property
    def torch_type(self) -> str:
        """The type of this family's `torch.device`."""
        return self.type

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names that users give this family."""
        return ()

    @property
    def visibility_variables(self) -> tuple[str, ...]:
        """Environment variables through which the driver hides devices of this family."""
        return ()

    @property
    def can_pin_host_memory(self) -> bool:
        """Whether pinned host memory makes copies to these devices faster and asynchronous."""
        return False

    @property
    def streams(self) -> Streams | None:
        """How to make streams on these devices; None where copies cannot run on one of their own."""
        return None

    @property
    def is_simulated(self) -> bool:
        """Whether these devices only exist for tests and demonstrations: what a step takes on them says nothing."""
        return False

    @property
    def has_streams(self) -> bool:
        """Whether copies can run on a stream of their own."""
        return self.streams is not None

    @abstractmethod
    def count(self) -> int:
        """How many devices there are, found without creating a context on any of them."""

    @abstractmethod
    def memory(self, index: int) -> MemoryReading:
        """Read free and total memory; this may create the device's context."""

    @abstractmethod
    def marketing_name(self, index: int) -> str:
        """What the vendor calls the device."""

    def name(self, index: int) -> str:
        """The canonical name."""
        return f"{self.type}:{index}" if self.indexed else self.type

    def torch_device(self, index: int) -> torch.device:
        return torch.device(self.torch_type, index) if self.indexed else torch.device(self.torch_type)

    def current_index(self) -> int:
        """The device that a `torch.device` without an index means."""
        return 0

    def total_bytes(self, index: int) -> int:
        return self.memory(index).total_bytes

    def is_awake(self, index: int) -> bool:
        """Whether this process uses the device already: to wake one up takes some of its memory."""
        return True

    def activity(self, index: int) -> DeviceActivity:
        """How busy and how warm the device is; creates no context on it."""
        return DeviceActivity()

    def empty_cache(self, index: int) -> None:
        """Give memory that is cached but unused back to the driver."""

    def synchronize(self, index: int) -> None:
        """Wait until the device has done all that was asked of it."""

    def empty_pinned(self, size_bytes: int) -> torch.Tensor:
        """Fresh pinned host memory, as bytes: copies from and to it run beside the host and at full speed.

        Raises RuntimeError where the driver refuses: there is a limit to what it locks.
        """
        raise NotImplementedError(f"{self.type} devices gain nothing from pinned memory")

    def unlock_pages(self, memory: torch.Tensor) -> bool:
        """Make memory of `empty_pinned` ordinary memory where it is; false where this family cannot.

        No copy from or to it may be under way.
        """
        return False

    def lock_pages(self, memory: torch.Tensor) -> None:
        """Page-lock again what `unlock_pages` has made ordinary.

        Raises RuntimeError where the driver refuses.
        """
        raise NotImplementedError(f"{self.type} devices cannot pin memory in place")

    def is_capturing(self) -> bool:
        """Whether a graph is being captured: until it ends nothing may wait for the device."""
        return False

    def has_peer_access(self, index: int, other_index: int) -> bool:
        """Whether one device reads another's memory directly, without going through the host."""
        return False

    def device_scope(self, index: int) -> AbstractContextManager[object]:
        """Make the device current for the duration of a `with` block."""
        return nullcontext()
