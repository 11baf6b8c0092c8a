"""Record the bytes that a model's steps moved and the time they took."""

from __future__ import annotations

import statistics
import time
from collections import deque

REMEMBERED_STEPS = 15


class StepRecord:
    """Bytes staged on the compute device, in all and for each step, and the seconds of each step."""

    def __init__(self) -> None:
        self.total_bytes = 0
        self._finished_step_bytes: int | None = None
        self._running_step_bytes = 0
        self._began_seconds: float | None = None
        self._took_seconds: deque[float] = deque(maxlen=REMEMBERED_STEPS)

    @property
    def step_bytes(self) -> int:
        """Bytes of the last finished step; of the running one while it is the first."""
        return self._running_step_bytes if self._finished_step_bytes is None else self._finished_step_bytes

    @property
    def whole_step_bytes(self) -> int | None:
        """Bytes of the last finished step; None before one has finished."""
        return self._finished_step_bytes

    @property
    def step_seconds(self) -> float | None:
        """The median of the last steps, from one's beginning to the next one's; None before the second has begun.

        It is the host's time: on devices that work beside it, that of a single step says little.
        """
        return statistics.median(self._took_seconds) if self._took_seconds else None

    def entered(self, size_bytes: int, is_new_step: bool) -> None:
        """Note an offloaded module that is entered, and whether a new step begins with it."""
        if is_new_step:
            self._finished_step_bytes = self._running_step_bytes
            self._running_step_bytes = 0
        if is_new_step or self._began_seconds is None:
            now = time.perf_counter()
            if self._began_seconds is not None:
                self._took_seconds.append(now - self._began_seconds)
            self._began_seconds = now
        self._running_step_bytes += size_bytes
        self.total_bytes += size_bytes
