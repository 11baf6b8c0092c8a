"""A model on another machine, as nodes at home use it: called there, and at home while that machine is lost."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from multigpu.multigpu_core.cluster.connection import Connection
from multigpu.multigpu_core.cluster.files.identity import FileIdentity, Identities
from multigpu.multigpu_core.cluster.files.sending import send_if_missing
from multigpu.multigpu_core.cluster.protocol import MachineLostError
from multigpu.multigpu_core.comfy.host.compatibility import comfy_utils
from multigpu.multigpu_core.comfy.host.compatibility import model_management as mm

from .machines import Machines, Place

log = structlog.get_logger("multigpu")


class UnsupportedRemotelyError(AttributeError):
    """Something of a model that is not served from another machine. The message names an alternative."""

    def __init__(self, what: str, place: Place, wanted: str) -> None:
        super().__init__(
            f"The {what} is on {place}, and {wanted} needs it on this machine. Choose a device of this machine in its "
            "loader."
        )


@dataclass(frozen=True)
class RemoteSource:
    """What a remote model is made of: `operation` begins the names of its operations there (``vae``)."""

    what: str
    """As messages call it: text encoder."""
    operation: str
    files: tuple[Path, ...]
    load_at_home: Callable[[], Any]
    """Loads the same model on this machine."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What its loading takes beside the files."""


class RemoteModel:
    """One model, shared by all that nodes make of it."""

    def __init__(self, machines: Machines, place: Place, source: RemoteSource, identities: Identities) -> None:
        self.place = place
        self.source = source
        self._machines = machines
        self._identities = identities
        self._loaded_on: weakref.ref[Connection] | None = None
        self.at_home: Any = None
        """The model on this machine, while the other one is lost."""
        self.key = ""
        """What it is called on its worker; empty until it is loaded there."""
        self.told: Any = None
        """What its loading there has answered."""

    def load(self) -> None:
        """Load it now, there or, if that machine is lost, at home: so a fault is reported at the loader's node."""
        self.run(lambda connection, key: None, lambda model: None)

    def run(self, there: Callable[[Connection, str], Any], here: Callable[[Any], Any]) -> Any:
        """Run `there` with a worker that has the model under a key; `here` with the model at home if there is none.

        Raises:
            ClusterError: the machine is there, but cannot do it.
        """
        mm.throw_exception_if_processing_interrupted()
        try:
            connection = self._machines.connection(self.place)
            answer = there(connection, self._key_on(connection))
        except MachineLostError as error:
            self._machines.note_loss(self.place, error)
            self._tell(error)
        except InterruptedError:
            mm.throw_exception_if_processing_interrupted()
            raise
        else:
            self.at_home = None
            return answer
        if self.at_home is None:
            self.at_home = self.source.load_at_home()
        return here(self.at_home)

    def call(self, method: str, arguments: Sequence[Any], named: dict[str, Any], **state: Any) -> Any:
        """Call a method of the model there; for `run`."""
        values = {"method": method, "arguments": list(arguments), "named": named, **state}
        operation = f"{self.source.operation}.call"
        return lambda connection, key: connection.call(operation, mm.processing_interrupted, key=key, **values)

    def _key_on(self, connection: Connection) -> str:
        """Its key, after it was loaded on the worker."""
        identities = [self._identities.of(path) for path in self.source.files]
        key = ":".join([self.source.operation, *(each.blake3 for each in identities), *self.source.settings.values()])
        if self._loaded_on is None or self._loaded_on() is not connection:
            self.key = key
            self._machines.users.add(self)
            for path, identity in zip(self.source.files, identities, strict=True):
                self._send(connection, path, identity)
            self.told = connection.call(
                f"{self.source.operation}.load",
                mm.processing_interrupted,
                key=key,
                used=[user.key for user in self._machines.users if user.place == self.place],
                files=[each.values for each in identities],
                **self.source.settings,
            )
            self._loaded_on = weakref.ref(connection)
            log.info(
                "remote_loaded",
                message=f"The {self.source.what} {' + '.join(each.name for each in identities)} is on {self.place}",
                machine=self.place.machine,
                devices=[str(self.place)],
            )
        return key

    def _send(self, connection: Connection, path: Path, identity: FileIdentity) -> None:
        bar = comfy_utils.ProgressBar(max(1, identity.size_bytes))
        sent = send_if_missing(connection, path, identity, bar.update_absolute, mm.processing_interrupted)
        if sent:
            log.info(
                "file_sent",
                message=f"{identity.name} was not on {self.place.machine}: sent {sent / 1e9:.2f} GB",
                machine=self.place.machine,
                sent_bytes=sent,
            )

    def _tell(self, error: MachineLostError) -> None:
        log.warning(
            "machine_lost",
            message=f"{error}. The {self.source.what} runs at home instead, with the same result, until "
            f"{self.place.machine} is back.",
            machine=self.place.machine,
            reason=error.reason,
        )
