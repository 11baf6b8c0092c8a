"""Page-locked host memory by CUDA's runtime, exact to the byte."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

_PORTABLE = 1
"""cudaHostRegisterPortable: locked for every card, not only for the current one."""


class PageLockError(RuntimeError):
    """The driver does not lock so much host memory. `code` is the error number that it gave."""

    def __init__(self, size_bytes: int, code: int) -> None:
        self.size_bytes = size_bytes
        self.code = code
        super().__init__(
            f"The driver refused to page-lock {size_bytes} bytes of host memory (error {code}). Its limit is reached: "
            "Windows and WSL lock half of the memory at most, Linux what `ulimit -l` says for some drivers."
        )


def page_locked_by(runtime: Any, size_bytes: int, clear_error: Callable[[], None] = lambda: None) -> torch.Tensor:
    """Fresh host memory as bytes, locked by this runtime (``torch.cuda.cudart()``) until its storage is freed.

    `clear_error` is called after a call that failed: the runtime remembers the error, and torch takes it for one of
    whatever it asks for next.

    Raises:
        PageLockError: the driver refuses.
    """
    memory = torch.empty(size_bytes, dtype=torch.uint8)
    if not size_bytes:
        return memory
    address = memory.data_ptr()
    code = int(runtime.cudaHostRegister(address, size_bytes, _PORTABLE))
    if code:
        clear_error()
        raise PageLockError(size_bytes, code)
    # A storage is told to be gone when its memory is freed already, by some versions of torch. The tensor that is
    # handed out holds this owner instead: it unlocks first, and then lets go of the memory.
    owner = (ctypes.c_uint8 * size_bytes).from_address(address)
    owner.memory = memory  # type: ignore[attr-defined]
    weakref.finalize(owner, partial(_unlock, runtime, address, clear_error)).atexit = False
    return torch.frombuffer(owner, dtype=torch.uint8)


def _unlock(runtime: Any, address: int, clear_error: Callable[[], None]) -> None:
    if int(runtime.cudaHostUnregister(address)):
        clear_error()
