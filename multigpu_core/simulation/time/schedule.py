"""When pieces of work on simulated devices run: what is ready first goes first, and nothing is interrupted.

Work is done by *engines*, of which each does one thing at a time: a device's compute, and each direction of a link. A
piece is ready when all that comes before it is done and the host has issued it. Since streams are issued one after the
other and run beside each other, times are only told when somebody asks: then everything issued so far is laid out.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(eq=False)
class Work:
    """One piece of work. `end_seconds` is None until times are told."""

    number: int
    era: int
    issued_seconds: float
    engines: tuple[str, ...]
    seconds: float
    waits_for: int = 0
    """How much that comes before has no time yet."""
    ready_seconds: float = 0.0
    end_seconds: float | None = None
    after: list[Work] = field(default_factory=list)

    @property
    def start_seconds(self) -> float:
        assert self.end_seconds is not None, "its time has not been told"
        return self.end_seconds - self.seconds


class Schedule:
    """The work issued since the clock was started."""

    def __init__(self) -> None:
        self.is_on = False
        self._era = 0
        self._count = 0
        self._free_at: dict[str, float] = {}
        self._ready: list[tuple[float, int, Work]] = []

    def begin(self) -> None:
        """Forget all work: it is long past."""
        self.is_on = True
        self._era += 1
        self._free_at.clear()
        self._ready.clear()

    def stop(self) -> None:
        """Take no more work."""
        self.tell()
        self.is_on = False

    def add(
        self, before: Sequence[Work | None], issued_seconds: float, engines: tuple[str, ...], seconds: float
    ) -> Work:
        """A piece of work that takes so long, on all of these engines at once, after those in `before`."""
        self._count += 1
        work = Work(self._count, self._era, issued_seconds, engines, seconds, ready_seconds=issued_seconds)
        for each in before:
            if each is None or each.era != self._era:
                continue
            if each.end_seconds is None:
                each.after.append(work)
                work.waits_for += 1
            else:
                work.ready_seconds = max(work.ready_seconds, each.end_seconds)
        if not work.waits_for:
            heapq.heappush(self._ready, (work.ready_seconds, work.number, work))
        return work

    def end_seconds(self, work: Work | None) -> float:
        """When a piece of work is done; zero for what was before the clock was started."""
        if work is None or work.era != self._era:
            return 0.0
        self.tell()
        assert work.end_seconds is not None, "all work has a time now"
        return work.end_seconds

    def tell(self) -> None:
        """Lay out all work that has no time yet."""
        while self._ready:
            ready, _, work = heapq.heappop(self._ready)
            start = max([ready, *(self._free_at.get(engine, 0.0) for engine in work.engines if work.seconds)])
            work.end_seconds = start + work.seconds
            if work.seconds:
                self._free_at.update(dict.fromkeys(work.engines, work.end_seconds))
            for each in work.after:
                each.ready_seconds = max(each.ready_seconds, work.end_seconds)
                each.waits_for -= 1
                if not each.waits_for:
                    heapq.heappush(self._ready, (each.ready_seconds, each.number, each))
            work.after.clear()
