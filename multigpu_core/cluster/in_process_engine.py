"""An engine without a network: every worker is a thread of this process. For tests of all that is above engines.

Messages are packed, read and bounded as over a network. A machine can be unplugged, which its workers never notice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, field

from .operations import Operations
from .protocol import Activity, Machine, MachineLostError, Reply
from .wire import Message

MakeOperations = Callable[[str], Operations]
"""Makes what a worker for a device, by its name there, can do."""
UNPLUGGED = "its network cable is unplugged"


@dataclass
class InProcessMachine:
    """A machine that is made up, with its plug."""

    machine: Machine
    unplugged: threading.Event = field(default_factory=threading.Event)
    hung: threading.Event = field(default_factory=threading.Event)
    """Its process is there, and answers nothing."""


class InProcessEngine:
    """Made-up machines. `machines` may change at any time."""

    def __init__(self, machines: Sequence[Machine], make_operations: MakeOperations) -> None:
        self.hosts = {machine.name: InProcessMachine(machine) for machine in machines}
        self.started: list[InProcessWorker] = []
        self._make_operations = make_operations

    def machines(self) -> tuple[Machine, ...]:
        return tuple(host.machine for host in self.hosts.values() if not host.unplugged.is_set())

    def start(self, machine: str, device: str) -> InProcessWorker:
        host = self.hosts.get(machine)
        if host is None or host.unplugged.is_set():
            raise MachineLostError(machine, "it is not connected")
        worker = InProcessWorker(host, self._make_operations(device))
        self.started.append(worker)
        return worker

    def activities(self) -> tuple[Activity, ...]:
        return tuple(worker.activity() for worker in self.started if not worker.is_ended)

    def disconnect(self) -> None:
        for worker in self.started:
            worker.end()


class InProcessWorker:
    """A worker of one thread."""

    def __init__(self, host: InProcessMachine, operations: Operations) -> None:
        self._host = host
        self._operations = operations
        self._thread = ThreadPoolExecutor(1, f"worker on {host.machine.name}")
        self.is_ended = False
        self.submitted: list[str] = []

    @property
    def machine(self) -> str:
        return self._host.machine.name

    def submit(self, operation: str, message: Message) -> InProcessCall:
        self._require_alive()
        self.submitted.append(operation)
        return InProcessCall(self, self._thread.submit(self._operations.carry_out, operation, message))

    def ping(self, seconds: float) -> None:
        self._require_alive()
        if self._host.hung.is_set():
            raise MachineLostError(self.machine, f"it has not answered for {seconds:.0f} s")

    def interrupt(self, number: int) -> None:
        self._operations.interrupt(number)

    def end(self) -> None:
        self.is_ended = True
        self._thread.shutdown(wait=False)

    def activity(self) -> Activity:
        return self._operations.activity(self.machine)

    def is_cut_off(self) -> bool:
        return self._host.unplugged.is_set() or self._host.hung.is_set()

    def _require_alive(self) -> None:
        if self._host.unplugged.is_set():
            raise MachineLostError(self.machine, UNPLUGGED)
        if self.is_ended:
            raise MachineLostError(self.machine, "its worker has ended")


class InProcessCall:
    """A call to a worker of this process."""

    def __init__(self, worker: InProcessWorker, future: Future[Reply]) -> None:
        self._worker = worker
        self._future = future

    def wait(self, seconds: float) -> Reply | None:
        try:
            reply = self._future.result(seconds)
        except NotYet:
            return None
        return None if self._worker.is_cut_off() else reply
