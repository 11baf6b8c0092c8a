"""Carry a choice of device into the threads that a node starts during its call.

A new thread has torch's default device, no context variables and no torch function modes. Libraries load weights in
pools of threads, so a node that starts one would get part of its model elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from multigpu.multigpu_core.comfy.any_node.choice import Choice, choosing, current_choice
from multigpu.multigpu_core.comfy.host.scope import device_scope

from .interception import Function, Intercepted
from .redirection import redirecting


@contextmanager
def on_this_thread(choice: Choice) -> Iterator[None]:
    """ComfyUI's device selection and torch name the chosen device in this thread until the block is left."""
    with ExitStack() as stack:
        stack.enter_context(choosing(choice))
        stack.enter_context(device_scope(choice.devices))
        stack.enter_context(choice.registry.device_scope(choice.name))
        stack.enter_context(redirecting(choice))
        yield


def _carried(function: Function, choice: Choice) -> Function:
    def run(*args: Any, **kwargs: Any) -> Any:
        with on_this_thread(choice):
            return function(*args, **kwargs)

    return run


def _start(original: Function) -> Function:
    def start(thread: Any) -> None:
        if (choice := current_choice()) is not None:
            thread.run = _carried(thread.run, choice)
        original(thread)

    return start


def _submit(original: Function) -> Function:
    def submit(executor: Any, function: Function, /, *args: Any, **kwargs: Any) -> Any:
        choice = current_choice()
        if choice is None:
            return original(executor, function, *args, **kwargs)
        with choosing(None):  # the pool's own thread outlives the call, and works for others then
            return original(executor, _carried(function, choice), *args, **kwargs)

    return submit


CARRYING = (
    Intercepted("threading", "Thread.start", _start),
    Intercepted("concurrent.futures.thread", "ThreadPoolExecutor.submit", _submit),
)
