"""Other machines as ComfyUI uses them: known from a small file, and connected when a workflow first needs one."""

from __future__ import annotations

import inspect
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from multigpu.multigpu_core.cluster.connecting import NO_CLUSTER, connect
from multigpu.multigpu_core.cluster.connection import Connection, Patience
from multigpu.multigpu_core.cluster.handshake import differences
from multigpu.multigpu_core.cluster.membership import ClusterFolder
from multigpu.multigpu_core.cluster.operations import versions_here
from multigpu.multigpu_core.cluster.protocol import ClusterError, Engine, Machine, MachineLostError
from multigpu.multigpu_core.cluster.worker_code import WorkerCode
from multigpu.multigpu_core.comfy.host.compatibility import comfy_sd
from multigpu.multigpu_core.comfy.host.compatibility import model_management as mm

from .flags import flags_here

log = structlog.get_logger("multigpu")
WORKER = "multigpu.multigpu_core.cli.cluster.worker_process:running_models"
SECONDS_TO_NEXT_TRY = 10.0
"""A machine that was lost is not asked again before."""


class KnownMachines(Protocol):
    """Where the machines that were seen last are kept."""

    def machines(self) -> tuple[Machine, ...]: ...


@dataclass(frozen=True)
class Place:
    """A device of another machine, written ``node2/cuda:0``."""

    machine: str
    device: str

    def __str__(self) -> str:
        return f"{self.machine}/{self.device}"


class User(Protocol):
    """A model of this process that is on a worker."""

    @property
    def place(self) -> Place: ...

    @property
    def key(self) -> str: ...


class Machines:
    """The other machines, and this process's workers on them.

    `users` are the models that something at home still refers to: a worker forgets all others.
    """

    def __init__(self, known: KnownMachines, engine: Callable[[], Engine], patience: Patience | None = None) -> None:
        self.users: weakref.WeakSet[User] = weakref.WeakSet()
        self._known = known
        self._make_engine = engine
        self._patience = patience
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._connections: dict[Place, Connection] = {}
        self._lost: dict[Place, tuple[float, MachineLostError]] = {}

    def places(self) -> tuple[Place, ...]:
        """The devices that were seen last, whether or not they are there now. Reads one small file."""
        return tuple(
            Place(machine.name, device.name) for machine in self._known.machines() for device in machine.devices
        )

    def place(self, text: str) -> Place | None:
        """The one that is written so; None for any other text."""
        wanted = text.strip().lower()
        return next((place for place in self.places() if str(place) == wanted), None)

    def connection(self, place: Place) -> Connection:
        """A worker on that device, started where there is none.

        Raises:
            MachineLostError: the machine is not there, or was not there a moment ago.
            ClusterError: its versions are others than home's.
        """
        with self._lock:
            connection = self._connections.get(place)
            if connection is not None and connection.loss is None:
                return connection
            if place in self._lost and time.monotonic() - self._lost[place][0] < SECONDS_TO_NEXT_TRY:
                raise self._lost[place][1]
            try:
                self._connections[place] = self._start(place)
            except MachineLostError as error:
                self._lost[place] = time.monotonic(), error
                raise
            return self._connections[place]

    def note_loss(self, place: Place, error: MachineLostError) -> None:
        """Do not ask that machine again for a while."""
        with self._lock:
            self._lost[place] = time.monotonic(), error
            if (connection := self._connections.pop(place, None)) is not None:
                connection.close()

    def let_go(self) -> None:
        """End all workers, which frees all that they hold; the next use starts them again."""
        with self._lock:
            connections, self._connections = list(self._connections.values()), {}
            self._lost.clear()
        for connection in connections:
            connection.close()

    def loss(self, place: Place) -> MachineLostError | None:
        """Why a device's worker was lost that was used last; None if it was not."""
        connection = self._connections.get(place)
        return connection.loss if connection is not None else None

    def disconnect(self) -> None:
        """Leave the cluster."""
        self.let_go()
        with self._lock:
            self._forget_engine()

    def _start(self, place: Place) -> Connection:
        try:
            if self._engine is None:
                self._engine = self._make_engine()
            worker = self._engine.start(place.machine, place.device)
        except MachineLostError:
            raise
        except ClusterError as error:
            self._forget_engine()
            raise MachineLostError(place.machine, str(error)) from error
        connection = Connection(worker, self._patience)
        try:
            self._agree(place, connection)
        except BaseException:
            connection.close()
            raise
        log.info("machine_connected", message=f"Connected to {place}", machine=place.machine, devices=[str(place)])
        return connection

    def _agree(self, place: Place, connection: Connection) -> None:
        different = list(
            differences(versions_here(), connection.call("describe", mm.processing_interrupted)["versions"])
        )
        deciding = [str(each) for each in different if each.is_deciding]
        if deciding:
            raise ClusterError(
                f"{place} cannot be used: {'; '.join(deciding)}. Results would differ. Install home's version there, "
                "or choose a device of this machine."
            )
        for each in different:
            log.warning("machine_differs", message=f"{place.machine}: {each}", machine=place.machine)
        connection.call("use_flags", mm.processing_interrupted, flags=flags_here())

    def _forget_engine(self) -> None:
        if self._engine is not None:
            self._engine.disconnect()
            self._engine = None


def machines_of(folder: ClusterFolder) -> Machines:
    """The machines of this machine's cluster. Neither Ray nor the network is touched before the first use."""

    def engine() -> Engine:
        member = folder.membership()
        if member is None:
            raise ClusterError(NO_CLUSTER)
        return connect(member, folder, WorkerCode(WORKER, tuple(_comfyui_code())))

    return Machines(folder, engine)


def _comfyui_code() -> Sequence[Path]:
    """What of home's ComfyUI a worker needs."""
    comfy = Path(inspect.getfile(comfy_sd.VAE)).parent
    return comfy, comfy.parent / "node_helpers.py"
