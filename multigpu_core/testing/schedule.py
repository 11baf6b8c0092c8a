"""When work on simulated devices is done: each engine takes up what is ready, in the order in which it became so.

Work is issued stream after stream and runs beside each other, so its times are told only when somebody asks: what was
issued later may be ready earlier. What has been told stands.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import count


class Moment:
    """The end of a piece of work, and of all work before it. `seconds` is when, once it has been told."""

    __slots__ = ("after", "duration", "engines", "issued", "seconds", "start")

    def __init__(
        self, after: Sequence[Moment], issued: float, engines: Sequence[str] = (), duration: float = 0.0
    ) -> None:
        self.after = tuple(after)
        self.issued = issued
        """When the host issued it: it does not begin before."""
        self.engines = tuple(engines)
        self.duration = duration
        self.start = 0.0
        self.seconds: float | None = None

    @classmethod
    def past(cls) -> Moment:
        """The beginning of time."""
        moment = cls((), 0.0)
        moment.seconds = 0.0
        return moment


class Schedule:
    """The engines of one machine, by name, and the work whose time nobody has asked for yet."""

    def __init__(self) -> None:
        self._free_at: dict[str, float] = {}
        self._untold: list[Moment] = []

    def add(self, after: Sequence[Moment], issued: float, engines: Sequence[str] = (), duration: float = 0.0) -> Moment:
        """The moment after those, and after so many seconds of work on all of these engines at once."""
        moment = Moment(after, issued, engines, duration)
        self._untold.append(moment)
        return moment

    def seconds_of(self, moment: Moment) -> float:
        """When that is."""
        if moment.seconds is None:
            self._tell()
        assert moment.seconds is not None
        return moment.seconds

    def restart(self) -> None:
        """Forget what engines did, and what nobody asked for."""
        self._tell()
        self._free_at.clear()

    def _tell(self) -> None:
        """Go through all work as it becomes ready; each engine does one thing at a time."""
        followers: dict[int, list[Moment]] = {}
        missing: dict[int, int] = {}
        numbers = count()
        ready: list[tuple[float, int, Moment]] = []
        for moment in self._untold:
            before = [other for other in moment.after if other.seconds is None]
            missing[id(moment)] = len(before)
            for other in before:
                followers.setdefault(id(other), []).append(moment)
            if not before:
                ready.append((_ready_at(moment), next(numbers), moment))
        heapq.heapify(ready)
        while ready:
            at, _, moment = heapq.heappop(ready)
            self._run(moment, at)
            for follower in followers.get(id(moment), ()):
                missing[id(follower)] -= 1
                if not missing[id(follower)]:
                    heapq.heappush(ready, (_ready_at(follower), next(numbers), follower))
        for moment in self._untold:
            moment.after = ()
        self._untold.clear()

    def _run(self, moment: Moment, at: float) -> None:
        if moment.duration > 0:
            at = max([at, *(self._free_at.get(engine, 0.0) for engine in moment.engines)])
            self._free_at.update(dict.fromkeys(moment.engines, at + moment.duration))
        moment.start, moment.seconds = at, at + moment.duration


def _ready_at(moment: Moment) -> float:
    return max([moment.issued, *(other.seconds or 0.0 for other in moment.after)])
