"""What the registry finds when it looks at backends: slots, readings, failures."""

from __future__ import annotations

from dataclasses import dataclass

from multigpu.multigpu_core.devices.backends.base import DeviceBackend, MemoryReading

from .info import DeviceInfo


@dataclass(frozen=True)
class DeviceProblem:
    """What a probe raised; `subject` is a device's name, or a family's where its devices could not be counted."""

    subject: str
    error: Exception


@dataclass(frozen=True)
class DeviceSurvey:
    """All devices at one moment, and the probes that failed."""

    devices: tuple[DeviceInfo, ...]
    problems: tuple[DeviceProblem, ...]


@dataclass(frozen=True)
class DeviceSlot:
    """One device as its backend addresses it."""

    backend: DeviceBackend
    index: int

    @property
    def name(self) -> str:
        return self.backend.name(self.index)

    def read(self, *, wake: bool = True) -> DeviceInfo:
        """The device now; without `wake` one that this process does not use yet is left alone, and called empty."""
        if wake or self.backend.is_awake(self.index):
            memory = self.backend.memory(self.index)
        else:
            total_bytes = self.backend.total_bytes(self.index)
            memory = MemoryReading(total_bytes, total_bytes)
        return DeviceInfo(
            name=self.name,
            type=self.backend.type,
            index=self.index if self.backend.indexed else None,
            marketing_name=self.backend.marketing_name(self.index),
            total_bytes=memory.total_bytes,
            free_bytes=memory.free_bytes,
            can_pin_host_memory=self.backend.can_pin_host_memory,
            has_streams=self.backend.has_streams,
        )


@dataclass(frozen=True)
class Restriction:
    """Only `names` may be used; `reason` is a sentence that says who decided so and how to change it."""

    names: frozenset[str]
    reason: str


def probe_count(backend: DeviceBackend) -> tuple[int, Exception | None]:
    """How many devices a backend has: none where it fails to say, and then why."""
    try:
        return backend.count(), None
    except Exception as error:  # A driver can fail in any way; the other backends still work.
        return 0, error
