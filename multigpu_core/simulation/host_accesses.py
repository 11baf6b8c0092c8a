"""The host's own use of pinned memory, which a copy may be reading or writing at that time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .timeline import Timeline, tensors_in

aten = torch.ops.aten
_COPIES = frozenset({aten.copy_, aten.clone, aten._to_copy})


class HostAccesses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Shows a timeline what operators of the CPU do in this thread within a `with` block.

    What goes past torch's operators, such as NumPy on the same memory, is not seen.
    """

    def __init__(self, timeline: Timeline) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._timeline = timeline

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not func.is_view and all(_is_on_host(tensor) for tensor in tensors_in((*args, *kwargs.values()))):
            self._timeline.used_by_host(func, args, kwargs)
        results = func(*args, **kwargs)
        if func.overloadpacket in _COPIES and isinstance(results, Tensor) and _is_on_host(results):
            self._timeline.clock.copied_by_host(results.nbytes)
        return results


def _is_on_host(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.layout == torch.strided
