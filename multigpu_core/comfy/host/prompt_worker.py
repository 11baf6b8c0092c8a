"""Run work on ComfyUI's prompt worker, the thread that executes prompts, between two of them.

ComfyUI's memory management takes no locks: a thread that unloads a model while the worker loads, frees or counts models
breaks both. So whatever loads, unloads or moves models runs on that thread. Routes and watches hand their work over:

    event loop       run(task) ─── wakes the worker ──────────────────── answer
    prompt worker    … prompt ends, flags are handled │ task │ waits for the next prompt …

The place between two prompts is ComfyUI's `PromptQueue.get`: core_patches.py has it call `take_turn` first.
"""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

WAKE_SECONDS = 0.25
"""ComfyUI misses a wake-up that comes just before it begins to wait, so it is repeated until the task begins."""
START_SECONDS = 60.0
CAUSE_UNKNOWN = "its thread has ended; see ComfyUI's log for the reason"


class PromptRunningError(RuntimeError):
    """A prompt runs, or began before the task could; the task was withdrawn."""


class WorkerUnavailableError(RuntimeError):
    """The prompt worker does not take tasks, and the task was withdrawn. The message says why and what to do."""


class PromptWorker:
    """The prompt worker of one queue: its tasks between prompts, and whether it is alive.

    `take_turn` belongs to the worker's thread, `run` to the event loop; the rest may be used by any thread.
    """

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self._tasks: deque[tuple[Future[None], Callable[[], None]]] = deque()
        self._tasks_begun = 0
        self._thread: threading.Thread | None = None
        self._last_words = ""
        self._hook_before: Callable[[threading.ExceptHookArgs], Any] = threading.excepthook

    @property
    def fault(self) -> str | None:
        """Why no prompt can run any more: the last line of the error that ended the worker; None while it is alive."""
        if self._thread is None or self._thread.is_alive():
            return None
        return self._last_words or CAUSE_UNKNOWN

    @property
    def is_prompt_running(self) -> bool:
        return bool(self._queue.currently_running)

    @property
    def is_idle(self) -> bool:
        """Whether no prompt and no task runs or waits."""
        return not self._tasks and not self._queue.get_tasks_remaining()

    @property
    def begun(self) -> int:
        """How many prompts and tasks have begun so far: equal at two moments, none began between them."""
        return int(self._queue.task_counter) + self._tasks_begun

    def submit(self, task: Callable[[], None]) -> Future[None]:
        """Have `task` run before the next prompt. Cancelling what is returned withdraws it unless it has begun."""
        future: Future[None] = Future()
        self._tasks.append((future, task))
        self.wake()
        return future

    def wake(self) -> None:
        """Have the worker look for tasks if it waits for a prompt."""
        with self._queue.not_empty:
            self._queue.not_empty.notify()

    async def run(self, task: Callable[[], None]) -> None:
        """Run `task` on the prompt worker and wait for its end, which takes nothing from the event loop.

        A task that has not begun is withdrawn when this raises or is cancelled. One that has begun runs to its end.

        Raises:
            PromptRunningError: a prompt runs.
            WorkerUnavailableError: the worker has died, or does not come to the task.
            Exception: whatever `task` raises.
        """
        deadline = time.monotonic() + START_SECONDS
        if refusal := self._refusal(deadline):
            raise refusal
        future = self.submit(task)
        ending = asyncio.wrap_future(future)
        try:
            while not (await asyncio.wait([ending], timeout=WAKE_SECONDS))[0]:
                refusal = self._refusal(deadline)
                if refusal and future.cancel():  # one that has begun, or even ended, cannot be cancelled
                    raise refusal
                self.wake()
            await ending
        finally:
            future.cancel()

    def take_turn(self, queue: Any) -> None:
        """Run all tasks that wait. The prompt worker calls it before it waits for a prompt of `queue`."""
        if queue is not self._queue:
            return
        self._thread = threading.current_thread()
        while self._tasks:
            future, task = self._tasks[0]
            if not future.set_running_or_notify_cancel():
                self._tasks.popleft()
                continue
            self._tasks_begun += 1
            error: Exception | None = None
            try:
                task()
            except BaseException as raised:  # it must not end the worker
                error = _passed_on(raised)
            self._tasks.popleft()
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
                error = None  # its traceback refers to this frame, and that to models

    def watch(self) -> None:
        """Remember the error that ends the worker, until `unwatch`."""
        if threading.excepthook != self._thread_ended:
            self._hook_before, threading.excepthook = threading.excepthook, self._thread_ended

    def unwatch(self) -> None:
        """Put Python's own handler back, unless somebody has put another one over ours: theirs stays."""
        if threading.excepthook == self._thread_ended:
            threading.excepthook = self._hook_before

    def _thread_ended(self, ended: threading.ExceptHookArgs) -> None:
        if ended.thread is self._thread:
            lines = traceback.format_exception_only(ended.exc_type, ended.exc_value)
            self._last_words = lines[-1].strip()
        self._hook_before(ended)

    def _refusal(self, deadline: float) -> RuntimeError | None:
        """Why a task cannot begin now, or not any more."""
        if self.fault is not None:
            return WorkerUnavailableError(f"ComfyUI's prompt worker has died ({self.fault}). Restart ComfyUI.")
        if self.is_prompt_running:
            return PromptRunningError()
        if time.monotonic() > deadline:
            return WorkerUnavailableError(
                f"ComfyUI was busy without a prompt for {START_SECONDS:g} s. Try again later."
            )
        return None


def _passed_on(error: BaseException) -> Exception:
    """`error`, or one in the place of those that would end the event loop or never leave a future."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")
