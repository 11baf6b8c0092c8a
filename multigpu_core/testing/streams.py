"""Streams and events of simulated devices: queues that order work and tell virtual time.

Values are computed at once, when an operator is issued. What a stream knows is the order that a real device would keep,
as a vector clock (one count of work for each stream), and the last piece of work that it was given.
"""

from __future__ import annotations

import threading
from typing import Any

import torch

from .schedule import Schedule, Work

Knowledge = dict[int, int]
"""For each stream, by its number, how much of its work is known to be done before: a vector clock."""


class Host:
    """The threads that issue work: what they have waited for, and the time of each in seconds.

    One thread at a time issues, as with Python's interpreter lock: a launch begins when its thread is ready and no other
    thread is launching. A thread that waits for a device leaves the interpreter to the others.
    """

    def __init__(self) -> None:
        self.knows: Knowledge = {}
        self.schedule = Schedule()
        self._threads = threading.local()
        self._launched_seconds = 0.0

    @property
    def seconds(self) -> float:
        """The time of this thread; one that is new begins when the interpreter is free."""
        return float(getattr(self._threads, "seconds", self._launched_seconds))

    def begin(self) -> None:
        """Begin at zero: moments before are long past."""
        self._threads = threading.local()
        self._launched_seconds = 0.0
        self.schedule.begin()

    def launch(self, seconds: float) -> None:
        """Issue one operator, which takes this thread so long, and the interpreter with it."""
        self._launched_seconds = max(self.seconds, self._launched_seconds) + seconds
        self._threads.seconds = self._launched_seconds

    def wait_for(self, knowledge: Knowledge, last: Work | None) -> None:
        join(self.knows, knowledge)
        self._threads.seconds = max(self.seconds, self.schedule.end_seconds(last))

    def work(self, *before: Work | None, engines: tuple[str, ...] = (), seconds: float = 0.0) -> Work:
        """A piece of work that is issued now and comes after others."""
        return self.schedule.add(before, self.seconds, engines, seconds)


class SimulatedStream:
    """One queue of a simulated device, shaped like `torch.cuda.Stream`."""

    def __init__(self, host: Host, number: int, device: torch.device, name: str) -> None:
        self._host = host
        self.stream_id = number
        self.device = device
        self.name = name
        """What a trace calls it."""
        self.knows: Knowledge = {number: 0}
        self.last: Work | None = None
        """The last piece of work that it was given; none where no time is told."""

    def queue(self) -> int:
        """Count one more piece of work, issued by the host now; its number in this stream."""
        join(self.knows, self._host.knows)
        self.knows[self.stream_id] += 1
        return self.knows[self.stream_id]

    def wait_event(self, event: SimulatedEvent) -> None:
        join(self.knows, event.knows)
        self._wait(event.last)

    def wait_stream(self, stream: SimulatedStream) -> None:
        join(self.knows, stream.knows)
        self._wait(stream.last)

    def record_event(self, event: SimulatedEvent | None = None) -> SimulatedEvent:
        event = event or SimulatedEvent(self._host)
        event.record(self)
        return event

    def query(self) -> bool:
        return self._host.schedule.end_seconds(self.last) <= self._host.seconds

    def synchronize(self) -> None:
        self._host.wait_for(self.knows, self.last)

    def _wait(self, last: Work | None) -> None:
        if last is not None and last is not self.last:
            self.last = self._host.work(self.last, last)


class SimulatedEvent:
    """A point in a stream's work, shaped like `torch.cuda.Event`; one that was never recorded is long past."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.knows: Knowledge = {}
        self.last: Work | None = None

    @property
    def seconds(self) -> float:
        """When the work before it is done."""
        return self._host.schedule.end_seconds(self.last)

    def record(self, stream: Any) -> None:
        self.knows = {**stream.knows}
        self.last = self._host.work(stream.last) if self._host.schedule.is_on else None

    def wait(self, stream: Any) -> None:
        stream.wait_event(self)

    def query(self) -> bool:
        return self.seconds <= self._host.seconds

    def synchronize(self) -> None:
        self._host.wait_for(self.knows, self.last)

    def elapsed_time(self, end_event: SimulatedEvent) -> float:
        """Virtual milliseconds from this point to another."""
        return (end_event.seconds - self.seconds) * 1000


def join(knowledge: Knowledge, other: Knowledge) -> None:
    """Know what the other knows, too."""
    for number, count in other.items():
        if knowledge.get(number, 0) < count:
            knowledge[number] = count
