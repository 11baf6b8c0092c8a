"""Copy torch's per-thread state to another thread."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack

import torch


def is_portable() -> bool:
    """Whether forwards may be spread over two threads now: all that they would see differently is taken along.

    Not taken along are gradients with all their hooks, modes that see every function or operator (a default device is
    one), and CUDA graphs recorded by torch.compile, which are replayed in the order of one thread.
    """
    modes = torch._C._len_torch_function_stack() + torch._C._len_torch_dispatch_stack()
    return not (torch.is_grad_enabled() or modes or "torch._inductor.cudagraph_trees" in sys.modules)


def portable_state(device_types: Iterable[str]) -> Callable[[], AbstractContextManager[object]]:
    """Return what makes the inference mode and autocasting of this thread those of another, for a `with` block there.

    `is_portable` holds.
    """
    is_inference = torch.is_inference_mode_enabled()
    caches = torch.is_autocast_cache_enabled()
    casts = {kind: torch.get_autocast_dtype(kind) for kind in device_types if torch.is_autocast_enabled(kind)}

    def enter() -> AbstractContextManager[object]:
        scopes = ExitStack()
        scopes.enter_context(torch.inference_mode(is_inference))
        scopes.enter_context(torch.no_grad())
        for kind, dtype in casts.items():
            scopes.enter_context(torch.autocast(kind, dtype, cache_enabled=caches))
        return scopes

    return enter
