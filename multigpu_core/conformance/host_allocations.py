"""What a piece of code allocates in host memory, exact to the byte where the process's resident size is noise."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class HostMemoryMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the CPU storages that operators make in this thread within a `with` block, as long as they live.

    `live_bytes` and `peak_bytes` are relative to the start of the block. Storages that were there before do not count,
    nor do mapped files, nor the host memory behind simulated devices.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes = 0
        self._live_bytes = 0
        self._released: deque[int] = deque()
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        self._lock = threading.RLock()

    @property
    def live_bytes(self) -> int:
        with self._lock:
            while self._released:
                self._live_bytes -= self._released.popleft()
            return self._live_bytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for tensor in _cpu_tensors((args, kwargs)):
            self._known.add(tensor.untyped_storage())
        results = func(*args, **(kwargs or {}))
        for tensor in _cpu_tensors(results):
            storage = tensor.untyped_storage()
            if storage not in self._known:
                self._known.add(storage)
                self._count(storage)
        return results

    def _count(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        weakref.finalize(storage, self._released.append, size).atexit = False
        with self._lock:
            self._live_bytes = self.live_bytes + size
            self.peak_bytes = max(self.peak_bytes, self._live_bytes)


def _cpu_tensors(values: Any) -> list[Tensor]:
    return [
        value
        for value in torch.utils._pytree.tree_leaves(values)
        if isinstance(value, Tensor) and value.device.type == "cpu" and value.layout == torch.strided
    ]
