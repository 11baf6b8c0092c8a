"""Deferred execution: each stream's work runs later than it is issued, in an order that streams and events allow.

A real device runs work when it gets to it, and nothing but a stream's own order and events say what comes first. Code
that forgets an event works most of the time, and always where values are computed as they are issued. Here every
operator and copy is a job. A job comes after the job before it on its stream and after what that stream was told to
wait for, and jobs run when the host waits for them:

    issued           copy stream  [copy]            compute stream  [matmul]      no event between the two
    run, late        [matmul] [copy]                what the matmul reads is still poison, and the result is NaN

In what order, a seed decides; the latest and the earliest are there as well. Memory that nobody has written, that was
freed, or that a copy is writing holds poison: NaN in every floating-point type, -1 in every signed integer. A copy is
under way from the moment when it can begin. So a wrong order gives a wrong number, as on a device.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from typing import Literal

import torch

Order = Literal["late", "early"] | int
"""When jobs run: as late or as early as possible, or at times that follow from a seed."""
POISON = 0xFF
"""The byte that unwritten memory is filled with."""


class Job:
    """A piece of work of one stream: one that is `at_once` runs when it can, without `run` it only waits for others."""

    __slots__ = ("after", "at_once", "is_done", "run", "stream")

    def __init__(self, stream: int, run: Callable[[], None] | None, after: tuple[Job, ...], at_once: bool) -> None:
        self.stream = stream
        self.run = run
        self.after = after
        self.at_once = at_once or run is None
        self.is_done = False

    @property
    def is_ready(self) -> bool:
        return all(each.is_done for each in self.after)


class Deferral:
    """The jobs of all streams that have not run yet."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._random = random.Random(order if isinstance(order, int) else 0)
        # How much runs while the host issues: nothing, little, or about as much.
        self._haste = self._random.choice((0.0, 0.0, 0.1, 0.5))
        self._weights: dict[int, float] = {}
        self._queues: dict[int, deque[Job]] = {}
        self._lock = threading.RLock()  # threads issue to the same streams

    def add(self, stream: int, run: Callable[[], None] | None, *after: Job | None, at_once: bool = False) -> Job:
        """Queue a job on a stream, after these; some jobs may run now."""
        with self._lock:
            queue = self._queues.setdefault(stream, deque())
            before = (queue[-1] if queue else None, *after)
            job = Job(stream, run, tuple(each for each in before if each is not None and not each.is_done), at_once)
            queue.append(job)
            self._run_at_once()
            if self._order == "early":
                self.finish(job)
            while isinstance(self._order, int) and self._random.random() < self._haste and self._run_any():
                pass
            return job

    def finish(self, job: Job | None) -> None:
        """Run jobs until this one is done."""
        with self._lock:
            while job is not None and not job.is_done:
                if isinstance(self._order, int):
                    self._run_any()
                else:
                    self._run(_first_to_run(job))

    def finish_all(self) -> None:
        with self._lock:
            for queue in list(self._queues.values()):
                while queue:
                    self.finish(queue[-1])

    def poll(self, job: Job | None) -> bool:
        """Whether a job is done. Whoever asks again and again sees it happen: one more job runs each time."""
        with self._lock:
            if job is not None and not job.is_done:
                self._run(_first_to_run(job))
            return job is None or job.is_done

    def _run_any(self) -> bool:
        """Run one of the jobs that could run now; false where there is none.

        Some streams are much faster than others: that is where orders differ most.
        """
        ready = [queue[0] for queue in self._queues.values() if queue and queue[0].is_ready]
        if ready:
            weights = [self._weight(job.stream) for job in ready]
            self._run(self._random.choices(ready, weights)[0])
        return bool(ready)

    def _weight(self, stream: int) -> float:
        if stream not in self._weights:
            self._weights[stream] = 100.0 ** self._random.uniform(-1, 1)
        return self._weights[stream]

    def _run(self, job: Job) -> None:
        self._run_one(job)
        self._run_at_once()

    def _run_at_once(self) -> None:
        """Run what has waited for nothing but others: a copy is under way from the moment when it can begin."""
        while jobs := [queue[0] for queue in self._queues.values() if queue[0].at_once and queue[0].is_ready]:
            self._run_one(jobs[0])

    def _run_one(self, job: Job) -> None:
        queue = self._queues[job.stream]
        assert queue[0] is job, "a stream's jobs run in their order"
        queue.popleft()
        if not queue:
            del self._queues[job.stream]
        run, job.run, job.after, job.is_done = job.run, None, (), True
        if run is not None:
            # Whatever is entered where the host waits says nothing about work that was issued before.
            with torch.inference_mode(), torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunctionSubclass():
                run()


def poison(tensor: torch.Tensor) -> None:
    """Fill a tensor on the host with what nobody should compute with."""
    if tensor.dim() and tensor.stride(-1) == 1 and tensor.dtype != torch.bool:
        tensor.view(torch.uint8).fill_(POISON)
    else:
        tensor.fill_(float("nan") if tensor.is_floating_point() or tensor.is_complex() else -1)


def _first_to_run(job: Job) -> Job:
    """The job itself, or else one that has to run before it and can run now."""
    while not job.is_ready:
        job = next(each for each in job.after if not each.is_done)
    return job
