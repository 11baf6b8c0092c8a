"""Two calls on two host threads that take turns: only one of them runs at any moment.

The first runs on the thread of the caller, the second on a thread that ends with it. Each runs until it hands over, and
goes on when the other has handed over, or has ended:

    first    [1]─┐     ┌─[2]─┐     ┌─[3]───┐
    second       └─[1]─┘     └─[2]─┘       └─[3]──

What belongs to a thread each call has to itself: context variables, torch's modes, current device and streams.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class Abandoned(BaseException):
    """Ends a call because the other one has failed. No Exception: model code that catches those is not to go on."""


class Alternation(Generic[T]):
    """Runs one pair of calls.

    A turn is a token in a queue: of Python's ways to wait, the one that an interrupt at any moment leaves whole.
    """

    def __init__(self) -> None:
        self._turns: tuple[SimpleQueue[None], SimpleQueue[None]] = (SimpleQueue(), SimpleQueue())
        self._has_ended = [False, False]
        self._is_broken = False
        self._second_result: list[T] = []
        self._second_error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def run(self, first: Callable[[], T], second: Callable[[], T]) -> list[T]:
        """Return both results. If a call fails, the other ends at its next `hand_over`, and the error is raised."""
        results: list[T] = []
        self._thread = thread = threading.Thread(
            target=copy_context().run, args=(self._run_second, second), name="multigpu second half", daemon=True
        )
        thread.start()
        try:
            results.append(first())
            self._has_ended[0] = True
            self._turns[1].put(None)
            self._wait_for_second()
        except BaseException as error:  # also an interrupt, which Python raises in the main thread, wherever that is
            self._stop_second()
            if not isinstance(error, Abandoned) or self._second_error is None:
                raise
        thread.join()
        failure, self._second_error = self._second_error, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # or its traceback would keep it, and all that the forwards held, until the next collection
        return results + self._second_result

    def hand_over(self) -> None:
        """Let the other call run until it hands over as well. Returns at once where that has ended.

        Raises:
            Abandoned: the other call has failed.
        """
        own = int(threading.current_thread() is self._thread)
        other = 1 - own
        if not self._has_ended[other]:
            try:
                self._turns[other].put(None)
                self._turns[own].get()
            except BaseException:  # an interrupt, as above: the first is not to unwind while the second runs
                self._stop_second()
                raise
        if self._is_broken:
            raise Abandoned

    def _run_second(self, call: Callable[[], T]) -> None:
        self._turns[1].get()
        try:
            if not self._is_broken:
                self._second_result.append(call())
        except Abandoned:
            pass
        except BaseException as error:
            self._second_error = error
            self._is_broken = True
        finally:
            self._has_ended[1] = True
            self._turns[0].put(None)

    def _stop_second(self) -> None:
        """Let the second end at its next `hand_over`, and wait for that."""
        self._is_broken = True
        self._turns[1].put(None)
        self._wait_for_second()

    def _wait_for_second(self) -> None:
        while not self._has_ended[1]:  # `Thread.join` that is interrupted takes it for ended
            self._turns[0].get()
