"""Page-locked host memory by CUDA's runtime, exact to the byte."""

from __future__ import annotations

import weakref
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


def page_locked_by(runtime: Any, size_bytes: int) -> torch.Tensor:
    """Fresh host memory as bytes, locked by this runtime (``torch.cuda.cudart()``) until its storage is freed.

    Raises:
        PageLockError: the driver refuses.
    """
    memory = torch.empty(size_bytes, dtype=torch.uint8)
    if not size_bytes:
        return memory
    storage = memory.untyped_storage()
    code = int(runtime.cudaHostRegister(storage.data_ptr(), size_bytes, _PORTABLE))
    if code:
        raise PageLockError(size_bytes, code)
    weakref.finalize(storage, runtime.cudaHostUnregister, storage.data_ptr()).atexit = False
    return memory
