"""The host: the threads that issue work to simulated devices, what they have waited for, and when."""

from __future__ import annotations

import threading
from typing import NamedTuple, Protocol

import torch

from multigpu.multigpu_core.simulation.deferral import Deferral, Job

from .faults import Faults
from .schedule import Schedule, Work

Knowledge = dict[int, int]
"""For each stream, by its number, how much of its work is known to be done before: a vector clock."""


class Mark(NamedTuple):
    """A point in a stream's work: what is done there, its last piece on the clock, and its last job."""

    knows: Knowledge
    work: Work | None = None
    job: Job | None = None


class Stream(Protocol):
    """What the host has to know of a stream."""

    @property
    def device(self) -> torch.device: ...

    @property
    def mark(self) -> Mark:
        """What it was given so far."""


class Host:
    """The threads that issue work: what they have waited for, and the time of each in seconds.

    One thread at a time issues, as with Python's interpreter lock: a launch begins when its thread is ready and no
    other thread is launching. A thread that waits for a device, or copies memory, leaves the interpreter to the others.
    """

    def __init__(self) -> None:
        self.knows: Knowledge = {}
        self.schedule = Schedule()
        self.faults = Faults()
        self.deferral: Deferral | None = None
        """None where work runs when it is issued."""
        self.busy: dict[int, Stream] = {}
        """Streams that may have something left to do, by number."""
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

    def spend(self, seconds: float) -> None:
        """Let this thread work so long outside of the interpreter."""
        self._threads.seconds = self.seconds + seconds

    def wait_for_device(self, device: torch.device) -> None:
        """Wait for all streams of a device."""
        for number, stream in list(self.busy.items()):
            if stream.device == device:
                del self.busy[number]
                self.wait_for(stream.mark)

    def wait_for(self, mark: Mark) -> None:
        """Wait until the work before a mark is done.

        Raises what failed of that work and was not raised yet.
        """
        self.wait_for_time(mark.work)
        if self.deferral is not None:
            self.deferral.finish(mark.job)
        join(self.knows, mark.knows)
        self.faults.report(self.knows)

    def wait_for_time(self, work: Work | None) -> None:
        """Let this thread's clock wait, and nothing else."""
        self._threads.seconds = max(self.seconds, self.schedule.end_seconds(work))

    def has_reached(self, mark: Mark) -> bool:
        """Whether the work before a mark is done by now; then the host has waited for it, too."""
        is_done = self.schedule.end_seconds(mark.work) <= self.seconds
        if self.deferral is not None and not self.deferral.poll(mark.job):
            is_done = False
        if is_done:
            self.wait_for(mark)
        return is_done

    def work(self, *before: Work | None, engines: tuple[str, ...] = (), seconds: float = 0.0) -> Work:
        """A piece of work that is issued now and comes after others."""
        return self.schedule.add(before, self.seconds, engines, seconds)


def join(knowledge: Knowledge, other: Knowledge) -> None:
    """Know what the other knows, too."""
    for number, count in other.items():
        if knowledge.get(number, 0) < count:
            knowledge[number] = count
