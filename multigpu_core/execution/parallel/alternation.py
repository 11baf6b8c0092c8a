"""Calls on host threads of their own that take turns: only one of them runs at any moment.

The first runs on the thread of the caller, each other one on a thread that ends with it. A call runs until it hands
over to the next, and goes on when the turn has come round to it:

    first    [1]─┐           ┌─[2]─┐
    second       └─[1]─┐     │     └─[2]─┐
    third              └─[1]─┘           └─[2]─

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
    """Ends a call because another one has failed. No Exception: model code that catches those is not to go on."""


class Alternation(Generic[T]):
    """Runs some calls, once.

    A thread waits on a queue: of Python's ways to wait, the one that an interrupt at any moment leaves whole. What is
    in the queue only wakes it; whose turn it is says `_turn`.
    """

    def __init__(self) -> None:
        self._wakes: list[SimpleQueue[None]] = []
        self._has_ended: list[bool] = []
        self._turn = 0
        self._is_broken = False
        self._results: dict[int, T] = {}
        self._error: BaseException | None = None
        self._index_of: dict[threading.Thread, int] = {}

    def run(self, *calls: Callable[[], T]) -> list[T]:
        """Return all results. If a call fails, the others end at their next `hand_over`, and the error is raised."""
        self._wakes = [SimpleQueue() for _ in calls]
        self._has_ended = [False for _ in calls]
        for index, call in enumerate(calls[1:], 1):
            name = f"multigpu call {index + 1}"
            thread = threading.Thread(
                target=copy_context().run, args=(self._run_other, index, call), name=name, daemon=True
            )
            self._index_of[thread] = index
        for thread in self._index_of:
            thread.start()
        try:
            self._results[0] = calls[0]()
            self._end(0)
            self._wait_for_others()
        except BaseException as error:  # also an interrupt, which Python raises in the main thread, wherever that is
            self._stop_others()
            if not isinstance(error, Abandoned) or self._error is None:
                raise
        for thread in self._index_of:
            thread.join()
        failure, self._error = self._error, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # or its traceback would keep it, and all that the calls held, until the next collection
        return [self._results[index] for index in range(len(calls))]

    def hand_over(self) -> None:
        """Let each other call run until it hands over as well. Returns at once where all others have ended.

        Raises:
            Abandoned: another call has failed.
        """
        own = self._index_of.get(threading.current_thread(), 0)
        if not self._is_broken:
            try:
                self._pass_on(own)
                self._wait_for_turn(own)
            except BaseException:  # an interrupt, as above: the first is not to unwind while another one runs
                self._stop_others()
                raise
        if self._is_broken:
            raise Abandoned

    def _run_other(self, index: int, call: Callable[[], T]) -> None:
        self._wait_for_turn(index)
        try:
            if not self._is_broken:
                self._results[index] = call()
        except Abandoned:
            pass
        except BaseException as error:
            self._error = self._error or error
            self._is_broken = True
        finally:
            self._end(index)

    def _end(self, own: int) -> None:
        self._has_ended[own] = True
        self._pass_on(own)
        self._wakes[0].put(None)  # it may wait for all others

    def _pass_on(self, own: int) -> None:
        """Give the turn to the next call that has not ended; keep it where there is none."""
        count = len(self._has_ended)
        for other in ((own + step) % count for step in range(1, count)):
            if not self._has_ended[other]:
                self._turn = other
                self._wakes[other].put(None)
                return

    def _wait_for_turn(self, own: int) -> None:
        while self._turn != own:
            self._wakes[own].get()

    def _stop_others(self) -> None:
        """Let the others end at their next `hand_over`, one after the other, and wait for that."""
        self._is_broken = True
        self._has_ended[0] = True
        if self._turn == 0:
            self._pass_on(0)
        for wake in self._wakes[1:]:  # the turn may have been given without one
            wake.put(None)
        self._wait_for_others()

    def _wait_for_others(self) -> None:
        while not all(self._has_ended[1:]):  # `Thread.join` that is interrupted takes it for ended
            self._wakes[0].get()
