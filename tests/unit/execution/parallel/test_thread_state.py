"""What torch keeps for each thread: what another thread takes along, and what stops a forward from being spread."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from multigpu.multigpu_core.execution.parallel.thread_state import is_portable, portable_state


def in_another_thread(call: Callable[[], Any]) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    thread.join()
    return results[0]


def state() -> tuple[Any, ...]:
    modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.get_default_dtype()
    return *modes, torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), torch.is_autocast_cache_enabled()


SCOPES: list[Callable[[], AbstractContextManager[Any]]] = [
    torch.inference_mode,
    torch.no_grad,
    lambda: torch.autocast("cpu", torch.float16, cache_enabled=False),
]


@pytest.mark.parametrize("grad", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("scope", SCOPES)
def test_inference_and_autocasting_are_taken_along(
    grad: Callable[[], AbstractContextManager[Any]], scope: Callable[[], AbstractContextManager[Any]]
) -> None:
    with grad(), scope():
        assert is_portable()
        here = state()
        enter = portable_state(["cpu"])

        def there() -> tuple[tuple[Any, ...], tuple[Any, ...]]:
            with enter():
                inside = state()
            return inside, state()

        fresh = in_another_thread(state)
        assert fresh != here, "a new thread knows nothing of it"
        assert in_another_thread(there) == (here, fresh)


def test_the_default_dtype_is_one_of_the_process() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert in_another_thread(torch.get_default_dtype) is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


class SeesFunctions(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class SeesOperators(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [SeesFunctions, SeesOperators, lambda: torch.device("cpu")])
def test_with_a_mode_of_the_thread_it_is_not_portable(mode: Callable[[], AbstractContextManager[Any]]) -> None:
    with torch.inference_mode():
        with mode():
            assert not is_portable()
        assert is_portable()


def test_with_gradients_it_is_not_portable() -> None:
    assert not is_portable()


def test_with_recorded_graphs_it_is_not_portable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch._inductor.cudagraph_trees", ModuleType("cudagraph_trees"))
    with torch.inference_mode():
        assert not is_portable()
