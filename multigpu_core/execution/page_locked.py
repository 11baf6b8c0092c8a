"""Page-locked host memory for what is streamed, as long as the driver and the user's limit allow."""

from __future__ import annotations

import threading
import weakref

import structlog
import torch

from multigpu.multigpu_core.devices import DeviceRegistry

log = structlog.get_logger("multigpu")

MOST_SPARE_BYTES = 64 * 1024**2
"""What weights leave for buffers: all chunks of one compute device's lanes."""


class PageLockedMemory:
    """Hands out page-locked host memory, `limit_bytes` in all; one for all models of a process.

    Weights leave a little of it for the buffers that other weights pass through. Once a driver has refused it is not
    asked for that much again while this process runs.
    """

    def __init__(self, registry: DeviceRegistry, limit_bytes: int) -> None:
        self._registry = registry
        self._limit_bytes = limit_bytes
        self._weights_limit_bytes = limit_bytes - min(MOST_SPARE_BYTES, limit_bytes // 16)
        self._is_told = limit_bytes == 0  # by the user
        self._locked_bytes = 0
        self._addresses: set[int] = set()
        self._lock = threading.Lock()  # memory is given back wherever the garbage collector runs

    @property
    def locked_bytes(self) -> int:
        """Bytes handed out and not yet given back."""
        return self._locked_bytes

    def has_room(self, size_bytes: int) -> bool:
        """Whether there may be so much for weights."""
        return self._locked_bytes + size_bytes <= self._weights_limit_bytes

    def allocate(self, size_bytes: int, compute_device: str, *, is_buffer: bool = False) -> torch.Tensor | None:
        """Fresh memory for copies to a compute device, of weights or a buffer; None where it cannot be page-locked."""
        if self._locked_bytes + size_bytes > (self._limit_bytes if is_buffer else self._weights_limit_bytes):
            self._tell_of_limit()
            return None
        try:
            with torch.inference_mode(False):  # it outlives the inference in which it is made
                memory = self._registry.empty_page_locked(size_bytes, compute_device)
        except (RuntimeError, NotImplementedError) as error:
            self._refused(error, is_buffer)
            return None
        address = memory.untyped_storage().data_ptr()
        with self._lock:
            self._locked_bytes += size_bytes
            self._addresses.add(address)
        weakref.finalize(memory.untyped_storage(), self._forget, address, size_bytes).atexit = False
        return memory

    def holds(self, memory: torch.Tensor) -> bool:
        """Whether memory was handed out from here."""
        return memory.untyped_storage().data_ptr() in self._addresses

    def _tell_of_limit(self) -> None:
        """Once: it is no error, but why steps take longer than they could."""
        if self._is_told:
            return
        self._is_told = True
        log.info(
            "page_locked_limit",
            message=f"{self._locked_bytes / 1e9:.1f} GB of host memory are page-locked, and "
            f"memory.page_locked_fraction allows {self._limit_bytes / 1e9:.1f} GB: weights beyond that go through a "
            "small buffer, at half of the link's speed.",
            locked_bytes=self._locked_bytes,
        )

    def _refused(self, error: Exception, is_buffer: bool) -> None:
        self._is_told = True
        self._weights_limit_bytes = self._locked_bytes
        if is_buffer:
            self._limit_bytes = self._locked_bytes
            return
        log.warning(
            "page_locking_failed",
            message=f"No more host memory can be page-locked after {self._locked_bytes / 1e9:.1f} GB: {error} "
            "Weights beyond that go through a small buffer, which takes the host's time: expect half of the link's "
            "speed.",
            locked_bytes=self._locked_bytes,
        )

    def _forget(self, address: int, size_bytes: int) -> None:
        with self._lock:
            self._locked_bytes -= size_bytes
            self._addresses.discard(address)
