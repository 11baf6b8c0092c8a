"""Pinned (page-locked) host memory by CUDA's runtime, exact to the byte."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from multigpu.multigpu_core.devices.after_capture import AfterCapture

_PORTABLE = 1
"""cudaHostRegisterPortable: pinned for every card, not only for the current one."""


class PinError(RuntimeError):
    """The driver does not pin so much host memory. `code` is the error number that it gave."""

    def __init__(self, size_bytes: int, code: int) -> None:
        self.size_bytes = size_bytes
        self.code = code
        super().__init__(
            f"The driver refused to pin {size_bytes} bytes of host memory (error {code}). Its limit is reached: "
            "Windows and WSL pin at most half of the memory, Linux what `ulimit -l` says for some drivers."
        )


class Pins:
    """Host memory that is pinned, and may be ordinary memory for a while without being moved.

    `runtime` gives ``torch.cuda.cudart()``. `clear_error` is called after a call that failed: the runtime remembers
    the error, and torch takes it for one of whatever it asks for next.
    """

    def __init__(
        self, runtime: Callable[[], Any], clear_error: Callable[[], None], after_capture: AfterCapture
    ) -> None:
        self._runtime = runtime
        self._clear_error = clear_error
        self._after_capture = after_capture
        self._pinned: dict[int, Any] = {}
        """By address, the runtime that has pinned it."""

    def empty(self, size_bytes: int) -> torch.Tensor:
        """Fresh pinned memory as bytes, unpinned when its storage is freed.

        Raises:
            PinError: the driver refuses.
        """
        self._after_capture.catch_up()
        memory = torch.empty(size_bytes, dtype=torch.uint8)
        if not size_bytes:
            return memory
        address = memory.data_ptr()
        self._pin(address, size_bytes)
        # Some versions of torch report a storage as gone when its memory is freed already. So the tensor that is handed
        # out holds this owner instead, and its finalizer holds the memory until it is unpinned.
        owner = (ctypes.c_uint8 * size_bytes).from_address(address)
        free = partial(self._after_capture, partial(self._free, address, memory))
        weakref.finalize(owner, free).atexit = False
        return torch.frombuffer(owner, dtype=torch.uint8)

    def lock(self, memory: torch.Tensor) -> None:
        """Pin again what `unlock` has made ordinary.

        Raises:
            PinError: the driver refuses.
        """
        self._after_capture.catch_up()
        storage = memory.untyped_storage()
        if storage.data_ptr() not in self._pinned:
            self._pin(storage.data_ptr(), storage.nbytes())

    def unlock(self, memory: torch.Tensor) -> None:
        """Make the memory behind a tensor ordinary, where it is. No copy from or to it may be under way."""
        self._unpin(memory.untyped_storage().data_ptr())

    def _pin(self, address: int, size_bytes: int) -> None:
        runtime = self._runtime()
        code = int(runtime.cudaHostRegister(address, size_bytes, _PORTABLE))
        if code:
            self._clear_error()
            raise PinError(size_bytes, code)
        self._pinned[address] = runtime

    def _unpin(self, address: int) -> None:
        runtime = self._pinned.pop(address, None)
        if runtime is not None and int(runtime.cudaHostUnregister(address)):
            self._clear_error()

    def _free(self, address: int, memory: torch.Tensor) -> None:
        self._unpin(address)
        del memory  # held until here
