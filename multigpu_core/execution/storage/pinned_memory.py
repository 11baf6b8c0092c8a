"""Pinned (page-locked) host memory for what is streamed, as long as the driver and the budget allow."""

from __future__ import annotations

import weakref
from collections import deque
from typing import NamedTuple, Protocol

import structlog
import torch

from multigpu.multigpu_core.devices import DeviceRegistry

log = structlog.get_logger("multigpu")

MOST_SPARE_BYTES = 64 * 1024**2
"""What weights leave for buffers: all chunks of one compute device's copy channels."""


class SharedBudget(Protocol):
    """The pinned memory of the whole process, where the program around us pins some, too."""

    def pinned_by_host_bytes(self) -> int:
        """What that program has pinned."""

    def make_room(self, size_bytes: int) -> bool:
        """Whether so much more may be pinned; that program may unpin what it does not use now."""

    def tell(self, pinned_bytes: int) -> None:
        """Let that program count what is pinned here, in all."""


class _Segment(NamedTuple):
    size_bytes: int
    device: str
    """Whose driver has pinned it."""


class PinnedMemory:
    """Hands out pinned host memory, `limit_bytes` in all; one for all models of a process.

    Weights leave a little of it for the buffers that other weights pass through. Once a driver has refused it is not
    asked again until memory has been returned. Finalizers only append to a deque: they may run at any moment, in the
    middle of any method here.
    """

    def __init__(self, registry: DeviceRegistry, limit_bytes: int, shared: SharedBudget | None = None) -> None:
        self._registry = registry
        self._limit_bytes = limit_bytes
        self._shared = shared
        self._is_limit_logged = limit_bytes == 0  # the user wants none
        self._is_refusal_logged = False
        self._refused_at_bytes: dict[bool, int] = {}
        """What the process had pinned when the driver refused more; by whether that was for a buffer."""
        self._pinned: dict[int, _Segment] = {}
        """By address."""
        self._unpinned: dict[int, _Segment] = {}
        """What was handed out pinned and is ordinary memory now."""
        self._freed: deque[int] = deque()

    @property
    def locked_bytes(self) -> int:
        """Bytes that are pinned now."""
        self._note_freed()
        return sum(segment.size_bytes for segment in tuple(self._pinned.values()))

    def has_room(self, size_bytes: int) -> bool:
        """Whether so much may be pinned for weights."""
        return (
            not self._is_refused(is_buffer=False)
            and self.locked_bytes + size_bytes <= self._limit(is_buffer=False)
            and (self._shared is None or self._shared.make_room(size_bytes))
        )

    def allocate(self, size_bytes: int, compute_device: str, *, is_buffer: bool = False) -> torch.Tensor | None:
        """Fresh memory for copies to a compute device, of weights or a buffer; None where it cannot be pinned."""
        if not self._may_pin(size_bytes, is_buffer):
            return None
        try:
            with torch.inference_mode(False):  # it outlives the inference in which it is made
                memory = self._registry.empty_pinned(size_bytes, compute_device)
        except (RuntimeError, NotImplementedError) as error:
            self._refused(error, is_buffer)
            return None
        storage = memory.untyped_storage()
        weakref.finalize(storage, self._freed.append, storage.data_ptr()).atexit = False
        self._note_freed()  # of an earlier piece at the same address
        self._pinned[storage.data_ptr()] = _Segment(size_bytes, compute_device)
        self._succeeded()
        return memory

    def lock(self, memory: torch.Tensor) -> bool:
        """Pin what `unlock` has made ordinary; false, with nothing done, for other memory or where it cannot be."""
        self._note_freed()
        address = memory.untyped_storage().data_ptr()
        segment = self._unpinned.get(address)
        if segment is None or not self._may_pin(segment.size_bytes, is_buffer=False):
            return False
        try:
            self._registry.lock_pages(memory, segment.device)
        except (RuntimeError, NotImplementedError) as error:
            self._refused(error, is_buffer=False)
            return False
        self._pinned[address] = self._unpinned.pop(address)
        self._succeeded()
        return True

    def unlock(self, memory: torch.Tensor) -> bool:
        """Make memory from here ordinary, where it is; false, with nothing done, where a driver cannot.

        No copy from or to it may be under way.
        """
        self._note_freed()
        address = memory.untyped_storage().data_ptr()
        segment = self._pinned.get(address)
        if segment is None or not self._registry.unlock_pages(memory, segment.device):
            return False
        self._unpinned[address] = self._pinned.pop(address)
        self._tell()
        return True

    def forget_refusals(self) -> None:
        """Ask the driver again from now on: a model was unloaded."""
        self._refused_at_bytes.clear()

    def holds(self, memory: torch.Tensor) -> bool:
        """Whether memory was handed out from here and is pinned."""
        self._note_freed()
        return memory.untyped_storage().data_ptr() in self._pinned

    def _limit(self, is_buffer: bool) -> int:
        spare_bytes = 0 if is_buffer else min(MOST_SPARE_BYTES, self._limit_bytes // 16)
        return self._limit_bytes - spare_bytes

    def _may_pin(self, size_bytes: int, is_buffer: bool) -> bool:
        if self._is_refused(is_buffer):
            return False
        is_allowed = self.locked_bytes + size_bytes <= self._limit(is_buffer)
        if is_allowed and (self._shared is None or self._shared.make_room(size_bytes)):
            return True
        self._log_limit(is_shared=is_allowed)
        return False

    def _is_refused(self, is_buffer: bool) -> bool:
        """Whether a driver has refused and nothing was returned since, by us or by the program around us."""
        refused_at_bytes = self._refused_at_bytes.get(is_buffer)
        if refused_at_bytes is None:
            return False
        if self.locked_bytes + self._pinned_by_host_bytes() < refused_at_bytes:
            del self._refused_at_bytes[is_buffer]
            return False
        return True

    def _refused(self, error: Exception, is_buffer: bool) -> None:
        pinned_bytes = self.locked_bytes + self._pinned_by_host_bytes()
        self._refused_at_bytes[False] = pinned_bytes  # what is too much for a buffer is so for weights
        if is_buffer:
            self._refused_at_bytes[True] = pinned_bytes
        self._is_limit_logged = True
        if is_buffer or self._is_refusal_logged:
            return
        self._is_refusal_logged = True
        log.warning(
            "page_locking_failed",
            message=f"No more host memory can be pinned: {error} {self._who()} Weights beyond that go through a "
            "small buffer, at about half of the link's speed.",
            locked_bytes=self.locked_bytes,
            locked_by_comfyui_bytes=self._pinned_by_host_bytes(),
        )

    def _succeeded(self) -> None:
        self._is_refusal_logged = False
        self._tell()

    def _log_limit(self, *, is_shared: bool) -> None:
        """Once: it is no error, but why steps take longer than they could."""
        if self._is_limit_logged:
            return
        self._is_limit_logged = True
        allowed = f"memory.page_locked_fraction allows MultiGPU {self._limit_bytes / 1e9:.1f} GB"
        if is_shared:
            allowed = "ComfyUI's own limit for both is used up"
        log.info(
            "page_locked_limit",
            message=f"{self._who()} This is the limit: {allowed}. Weights beyond that go "
            "through a small buffer, at half of the link's speed.",
            locked_bytes=self.locked_bytes,
            locked_by_comfyui_bytes=self._pinned_by_host_bytes(),
        )

    def _who(self) -> str:
        ours, host = self.locked_bytes / 1e9, self._pinned_by_host_bytes() / 1e9
        return f"MultiGPU has pinned {ours:.1f} GB of host memory and ComfyUI {host:.1f} GB."

    def _pinned_by_host_bytes(self) -> int:
        return self._shared.pinned_by_host_bytes() if self._shared is not None else 0

    def _note_freed(self) -> None:
        is_changed = False
        while self._freed:
            address = self._freed.popleft()
            is_changed |= self._pinned.pop(address, None) is not None
            self._unpinned.pop(address, None)
        if is_changed:
            self._tell()

    def _tell(self) -> None:
        if self._shared is not None:
            self._shared.tell(sum(segment.size_bytes for segment in tuple(self._pinned.values())))
