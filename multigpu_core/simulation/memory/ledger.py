"""What simulated devices hold and what moved between them, exact to the byte."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass

import torch

REMEMBERED_COPIES = 100_000


@dataclass(frozen=True)
class CopyRecord:
    """One copy of values from one device to another; `bytes` are those of the source values, in the source's dtype."""

    source: str
    destination: str
    bytes: int
    dtype: torch.dtype


class CopyLog:
    """The copies between devices since the last `clear`, oldest first.

    The newest `REMEMBERED_COPIES` are kept one by one; the sums of `bytes_moved` count every copy.
    """

    def __init__(self) -> None:
        self._records: deque[CopyRecord] = deque(maxlen=REMEMBERED_COPIES)
        self._sums: Counter[tuple[str, str]] = Counter()

    @property
    def records(self) -> tuple[CopyRecord, ...]:
        return tuple(self._records)

    def add(self, record: CopyRecord) -> None:
        self._records.append(record)
        self._sums[record.source, record.destination] += record.bytes

    def bytes_moved(self, source: str | None = None, destination: str | None = None) -> int:
        """Bytes copied from `source` to `destination`, each a device name such as ``cpu`` or ``npu:0``; None is any."""
        return sum(
            moved
            for (origin, target), moved in tuple(self._sums.items())
            if source in (None, origin) and destination in (None, target)
        )

    def clear(self) -> None:
        self._records.clear()
        self._sums.clear()


class SimulatedDevice:
    """One simulated accelerator: its name, its memory in bytes, and what lives in that memory.

    `live_bytes` are the bytes of all storages alive on the device, views counted with the storage they share;
    `peak_bytes` is their maximum since the device was made or `reset_peak` was called.
    """

    def __init__(self, torch_device: torch.device, marketing_name: str, total_bytes: int) -> None:
        self.torch_device = torch_device
        self.marketing_name = marketing_name
        self.total_bytes = total_bytes
        self.generator = torch.Generator(device="cpu")
        self._live_bytes = 0
        self._peak_bytes = 0
        # Storages die wherever the garbage collector runs, perhaps while this thread holds the lock: an append is
        # atomic and takes none.
        self._released: deque[int] = deque()
        self._lock = threading.RLock()

    @property
    def name(self) -> str:
        """How users write the device, such as ``npu:0``."""
        return str(self.torch_device)

    @property
    def live_bytes(self) -> int:
        with self._lock:
            while self._released:
                self._live_bytes -= self._released.popleft()
            return self._live_bytes

    @property
    def free_bytes(self) -> int:
        return self.total_bytes - self.live_bytes

    @property
    def peak_bytes(self) -> int:
        return self._peak_bytes

    def reset_peak(self) -> None:
        self._peak_bytes = self.live_bytes

    def require(self, wanted_bytes: int) -> None:
        """Raise `torch.OutOfMemoryError` unless `wanted_bytes` more fit."""
        if wanted_bytes > self.free_bytes:
            raise torch.OutOfMemoryError(
                f"{self.torch_device.type.upper()} out of memory. Tried to allocate {wanted_bytes} bytes. {self.name} "
                f"({self.marketing_name}) has a total capacity of {self.total_bytes} bytes of which {self.free_bytes} "
                f"bytes are free."
            )

    def charge(self, allocated_bytes: int) -> None:
        """Count a new storage, or raise `torch.OutOfMemoryError` and count nothing."""
        with self._lock:
            self.require(allocated_bytes)
            self._live_bytes = self.live_bytes + allocated_bytes
            self._peak_bytes = max(self._peak_bytes, self._live_bytes)

    def release(self, freed_bytes: int) -> None:
        """Count a storage as gone; safe at any moment, in any thread."""
        self._released.append(freed_bytes)
