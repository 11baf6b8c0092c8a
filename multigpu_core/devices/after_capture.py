"""Work that a garbage collection asks for, put off while a graph is captured."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class AfterCapture:
    """Runs actions at once, or after the capture of a graph that is under way.

    Waiting for a device or unpinning memory breaks the capture, and an object may be freed at any moment. An action
    holds what must stay alive until it has run. Nothing here takes a lock: a finalizer may run in the middle of it.
    """

    def __init__(self, is_capturing: Callable[[], bool]) -> None:
        self._is_capturing = is_capturing
        self._waiting: deque[Callable[[], object]] = deque()

    def __call__(self, action: Callable[[], object]) -> None:
        """Run `action` now, or with the first call after the capture."""
        self._waiting.append(action)
        self.catch_up()

    def catch_up(self) -> None:
        """Run what was put off, unless a graph is still being captured."""
        while self._waiting and not self._is_capturing():
            try:
                action = self._waiting.popleft()
            except IndexError:  # another thread, or a finalizer in between, has run it
                return
            action()
