"""Streams and events of simulated devices: queues that order work and tell virtual time.

What a stream knows is the order that a real device would keep, as a vector clock (one count of work for each stream).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from multigpu.multigpu_core.simulation.deferral import Job

from .host_threads import Host, Knowledge, Mark, join
from .schedule import Work

_DEVICE_TYPE = 20
"""PrivateUse1 in torch's numbering of device types."""


class SimulatedStream(torch.Stream):
    """One queue of a simulated device, shaped like `torch.cuda.Stream`.

    As torch's streams it does not order its work with that of the device's default stream, unless it is told to.
    """

    def __new__(cls, host: Host, number: int, device: torch.device, name: str) -> SimulatedStream:
        return super().__new__(cls, stream_id=number, device_index=device.index, device_type=_DEVICE_TYPE)

    def __init__(self, host: Host, number: int, device: torch.device, name: str) -> None:
        self._host = host
        self.name = name
        """What a trace calls it."""
        self.knows: Knowledge = {number: 0}
        self.last: Work | None = None
        """The last piece of work that it was given; none where no time is told."""
        self._job: Job | None = None

    @property
    def mark(self) -> Mark:
        """What it was given so far."""
        return Mark({**self.knows}, self.last, self._job)

    def queue(self) -> int:
        """Count one more piece of work, issued by the host now; its number in this stream."""
        self._host.busy[self.stream_id] = self
        join(self.knows, self._host.knows)
        self.knows[self.stream_id] += 1
        return self.knows[self.stream_id]

    def run(self, work: Callable[[], None] | None, *after: Job | None, at_once: bool = False) -> None:
        """Let the stream do something: now, or later where execution is deferred, also after some other jobs.

        With `at_once` it is done as soon as all before it is done.
        """
        if self._host.deferral is not None:
            self._job = self._host.deferral.add(self.stream_id, work, *after, at_once=at_once)
        elif work is not None:
            work()

    def wait_event(self, event: Any) -> None:
        self._wait(event.mark)

    def wait_stream(self, stream: Any) -> None:
        self._wait(stream.mark)

    def record_event(self, event: Any = None) -> Any:
        event = event or SimulatedEvent(self._host)
        event.record(self)
        return event

    def query(self) -> bool:
        return self._host.has_reached(self.mark)

    def synchronize(self) -> None:
        self._host.wait_for(self.mark)

    def _wait(self, mark: Mark) -> None:
        self._host.busy[self.stream_id] = self
        join(self.knows, mark.knows)
        if mark.work is not None and mark.work is not self.last:
            self.last = self._host.work(self.last, mark.work)
        if mark.job is not None and not mark.job.is_done:
            self.run(None, mark.job)


class SimulatedEvent:
    """A point in a stream's work, shaped like `torch.cuda.Event`; one that was never recorded is long past."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.mark = Mark({})

    @property
    def seconds(self) -> float:
        """When the work before it is done."""
        return self._host.schedule.end_seconds(self.mark.work)

    def record(self, stream: SimulatedStream) -> None:
        mark = stream.mark
        self.mark = mark._replace(work=self._host.work(mark.work) if self._host.schedule.is_on else None)

    def wait(self, stream: SimulatedStream) -> None:
        stream.wait_event(self)

    def query(self) -> bool:
        return self._host.has_reached(self.mark)

    def synchronize(self) -> None:
        self._host.wait_for(self.mark)

    def elapsed_time(self, end_event: SimulatedEvent) -> float:
        """Virtual milliseconds from this point to another."""
        return (end_event.seconds - self.seconds) * 1000
