"""A worker of another machine that is watched: a call ends when the worker is lost, and when its user interrupts it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .protocol import MachineLostError, OperationError, Worker
from .wire import pack, unpack


@dataclass(frozen=True)
class Patience:
    """How a worker is watched, in seconds: the sum of both is the longest time in which a loss stays unnoticed."""

    between_pings: float = 1.0
    for_an_answer: float = 3.5
    between_looks: float = 0.1
    """While a call waits, it looks this often whether the worker is lost or the user interrupts."""
    to_start: float = 120.0
    """A worker that starts imports torch first, and answers no ping meanwhile."""


class Connection:
    """A worker, and the thread that pings it until it is closed, lost, or nobody refers to it any more."""

    def __init__(self, worker: Worker, patience: Patience | None = None) -> None:
        self._worker = worker
        self._patience = patience or Patience()
        self._turn = threading.Lock()
        self._calls = 0
        self._watch = _Watch(worker, self._patience)
        weakref.finalize(self, self._watch.stop)
        threading.Thread(target=self._watch.run, name=f"ping {worker.machine}", daemon=True).start()

    @property
    def machine(self) -> str:
        return self._worker.machine

    @property
    def loss(self) -> MachineLostError | None:
        """Why the worker is lost; None while it is there."""
        return self._watch.loss

    def call(self, operation: str, /, is_interrupted: Callable[[], bool] = lambda: False, **values: Any) -> Any:
        """The result of one operation; calls of several threads come one after the other.

        Raises:
            MachineLostError: the worker was lost before it answered.
            OperationError: the worker answered with an error.
            InterruptedError: `is_interrupted` said so, and the worker was told.
            WireError: the values cannot be sent.
        """
        message = pack(values)
        with self._turn:
            self._raise_if_lost()
            self._calls += 1
            pending = self._worker.submit(operation, message)
            while (reply := pending.wait(self._patience.between_looks)) is None:
                self._raise_if_lost()
                if is_interrupted():
                    self._worker.interrupt(self._calls)
                    raise InterruptedError(f"{operation} on {self.machine} was interrupted")
        if reply.result is None:
            raise OperationError(self.machine, operation, reply.error)
        return unpack(reply.result)

    def close(self) -> None:
        """End the worker."""
        self._watch.stop()
        self._worker.end()

    def _raise_if_lost(self) -> None:
        if self.loss is not None:
            raise MachineLostError(self.loss.machine, self.loss.reason)


class _Watch:
    """Pings one worker."""

    def __init__(self, worker: Worker, patience: Patience) -> None:
        self._worker = worker
        self._patience = patience
        self._stopped = threading.Event()
        self.loss: MachineLostError | None = None

    def run(self) -> None:
        seconds = self._patience.to_start
        while not self._stopped.is_set():
            try:
                self._worker.ping(seconds)
            except MachineLostError as error:
                self.loss = error
                return
            seconds = self._patience.for_an_answer
            self._stopped.wait(self._patience.between_pings)

    def stop(self) -> None:
        self._stopped.set()
