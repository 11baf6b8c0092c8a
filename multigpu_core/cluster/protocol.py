"""What the cluster is to the rest of this project: machines, workers on their devices, and calls by name.

An engine brings these to life: `RayEngine` over the network, `InProcessEngine` for the tests of all that is above it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # without torch, names and addresses can still be read
    from .wire import Message


class ClusterError(RuntimeError):
    """The cluster cannot be used; the message says why, and what to do."""


class MachineLostError(ClusterError):
    """A machine, or the worker on it, is gone or does not answer. `machine` is its name, `reason` what was seen."""

    def __init__(self, machine: str, reason: str) -> None:
        self.machine = machine
        self.reason = reason
        super().__init__(f"The machine {machine} is lost: {reason}")


class OperationError(ClusterError):
    """An operation failed on another machine, which is still there. `machine` is its name, `reason` its error."""

    def __init__(self, machine: str, operation: str, reason: str) -> None:
        self.machine = machine
        self.operation = operation
        self.reason = reason
        super().__init__(f"{operation} failed on {machine}: {reason}")


@dataclass(frozen=True, order=True)
class RemoteDevice:
    """A device of another machine, by the name that it has there (``cuda:0``)."""

    name: str
    total_bytes: int


@dataclass(frozen=True)
class Machine:
    """A machine of the cluster. `is_home` says that it is the one on which the cluster was started."""

    name: str
    address: str
    devices: tuple[RemoteDevice, ...]
    is_home: bool = False

    def device_names(self) -> tuple[str, ...]:
        """Its devices as other machines write them: ``node2/cuda:0``."""
        return tuple(f"{self.name}/{device.name}" for device in self.devices)


@dataclass(frozen=True)
class Reply:
    """What a worker answers: a result, or the error that kept it from one."""

    result: Message | None
    error: str = ""


@dataclass(frozen=True)
class Activity:
    """What a worker does now: `operation` is empty while it waits. `holds` names the models that it keeps."""

    machine: str
    device: str
    operation: str
    holds: tuple[str, ...] = ()


class Pending(Protocol):
    """A call under way."""

    def wait(self, seconds: float) -> Reply | None:
        """The reply, or None if there is none within `seconds`.

        Raises:
            MachineLostError: there will be none.
        """


class Worker(Protocol):
    """A process of ours on another machine that works for one device of it, and for this process alone."""

    @property
    def machine(self) -> str: ...

    def submit(self, operation: str, message: Message) -> Pending:
        """Have it carry out one of the operations that it knows, after those that were submitted before."""

    def ping(self, seconds: float) -> None:
        """Return when it has answered, also while it works.

        Raises:
            MachineLostError: it did not within `seconds`, or is gone.
        """

    def interrupt(self, number: int) -> None:
        """Have it give up the call of this number, counted from 1."""

    def end(self) -> None:
        """End the process, and with it all that it holds."""


class Engine(Protocol):
    """The way to other machines."""

    def machines(self) -> tuple[Machine, ...]:
        """Those that are there now, home first.

        Raises:
            ClusterError: the cluster does not answer.
        """

    def start(self, machine: str, device: str) -> Worker:
        """Start a worker for a device of a machine. It may take a while until it answers.

        Raises:
            MachineLostError: there is no such machine now.
        """

    def activities(self) -> tuple[Activity, ...]:
        """What all workers do now, those of other programs at home included."""

    def disconnect(self) -> None:
        """Leave the cluster; it and its other workers stay."""
