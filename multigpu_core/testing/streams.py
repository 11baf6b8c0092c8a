"""Streams and events of simulated devices: queues that order work and tell virtual time.

Values are computed at once, when an operator is issued. What a stream knows is the order that a real device would keep,
as a vector clock (one count of work for each stream), and the moment at which the work it was given so far is done.
"""

from __future__ import annotations

from typing import Any

import torch

from .schedule import Moment, Schedule

Knowledge = dict[int, int]
"""For each stream, by its number, how much of its work is known to be done before: a vector clock."""


class Host:
    """The thread that issues work: what it has waited for, and its own time in seconds."""

    def __init__(self) -> None:
        self.knows: Knowledge = {}
        self.seconds = 0.0
        self.schedule = Schedule()

    def wait_for(self, knowledge: Knowledge, moment: Moment) -> None:
        join(self.knows, knowledge)
        self.seconds = max(self.seconds, self.schedule.seconds_of(moment))

    def has_reached(self, moment: Moment) -> bool:
        return self.schedule.seconds_of(moment) <= self.seconds


class SimulatedStream:
    """One queue of a simulated device, shaped like `torch.cuda.Stream`."""

    def __init__(self, host: Host, number: int, device: torch.device, name: str) -> None:
        self._host = host
        self.stream_id = number
        self.device = device
        self.name = name
        """What a trace calls it."""
        self.knows: Knowledge = {number: 0}
        self.done = Moment.past()
        """When all that was queued so far is done."""

    def queue(self) -> int:
        """Count one more piece of work, issued by the host now; its number in this stream."""
        join(self.knows, self._host.knows)
        self.knows[self.stream_id] += 1
        return self.knows[self.stream_id]

    def wait_event(self, event: SimulatedEvent) -> None:
        join(self.knows, event.knows)
        self._wait(event.moment)

    def wait_stream(self, stream: SimulatedStream) -> None:
        join(self.knows, stream.knows)
        self._wait(stream.done)

    def record_event(self, event: SimulatedEvent | None = None) -> SimulatedEvent:
        event = event or SimulatedEvent(self._host)
        event.record(self)
        return event

    def query(self) -> bool:
        return self._host.has_reached(self.done)

    def synchronize(self) -> None:
        self._host.wait_for(self.knows, self.done)

    def _wait(self, moment: Moment) -> None:
        if moment.seconds is None or self._host.seconds < moment.seconds:
            self.done = self._host.schedule.add((self.done, moment), 0.0)


class SimulatedEvent:
    """A point in a stream's work, shaped like `torch.cuda.Event`; one that was never recorded is long past."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.knows: Knowledge = {}
        self.moment = Moment.past()

    def record(self, stream: Any) -> None:
        self.knows = {**stream.knows}
        self.moment = stream.done
        if self.moment.seconds is None or self.moment.seconds < self._host.seconds:
            self.moment = self._host.schedule.add((stream.done,), self._host.seconds)

    def wait(self, stream: Any) -> None:
        stream.wait_event(self)

    def query(self) -> bool:
        return self._host.has_reached(self.moment)

    def synchronize(self) -> None:
        self._host.wait_for(self.knows, self.moment)

    def elapsed_time(self, end_event: SimulatedEvent) -> float:
        """Virtual milliseconds from this point to another."""
        seconds_of = self._host.schedule.seconds_of
        return (seconds_of(end_event.moment) - seconds_of(self.moment)) * 1000


def join(knowledge: Knowledge, other: Knowledge) -> None:
    """Know what the other knows, too."""
    for number, count in other.items():
        if knowledge.get(number, 0) < count:
            knowledge[number] = count
