"""Run a coroutine inside a context manager that holds only while the coroutine itself is at work.

While it waits, other coroutines of the same thread run: they must not see what was set for this one, and a lock that
it held would never come free for them.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

Result = TypeVar("Result")


class Stepwise(Coroutine[Any, Any, Result]):
    """A coroutine that enters `snapshot()` before each of its steps and leaves it after."""

    def __init__(
        self, coroutine: Coroutine[Any, Any, Result], snapshot: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        self._coroutine = coroutine
        self._snapshot = snapshot

    def send(self, value: Any) -> Any:
        with self._snapshot():
            return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        with self._snapshot():
            return self._coroutine.throw(*error)

    def close(self) -> None:
        with self._snapshot():
            self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Result]:
        return (yield from _steps(self))


def _steps(coroutine: Coroutine[Any, Any, Result]) -> Generator[Any, Any, Result]:
    """What `await` does with a coroutine, for one that is not built in."""
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            waited_for = coroutine.send(value) if error is None else coroutine.throw(error)
        except StopIteration as finished:
            result: Result = finished.value
            return result
        try:
            value, error = (yield waited_for), None
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as thrown:
            error = thrown
