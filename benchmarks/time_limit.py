"""For benchmarks that have to be over in time: a part of the figures is worth more than all of them too late."""

from __future__ import annotations

import time

from rich.console import Console


class TimeLimit:
    """Counts from when it is made; None is no limit."""

    def __init__(self, minutes: float | None) -> None:
        self._ends = time.monotonic() + 60 * minutes if minutes is not None else None

    def is_over(self, what: str) -> bool:
        """Whether it is too late to begin something, and says so of what is left out."""
        is_late = self._ends is not None and time.monotonic() > self._ends
        if is_late:
            Console(stderr=True).print(f"No time left for: {what}", style="yellow", markup=False)
        return is_late
