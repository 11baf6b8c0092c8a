"""The engine over a network, on Ray. The one file that imports Ray, and it is imported only to reach other machines."""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, RayError, RayTaskError

from .announced import machine_resource, read_announcement
from .code_bundle import make_bundle
from .membership import Membership
from .operations import Operations
from .protocol import Activity, ClusterError, Machine, MachineLostError, Reply
from .wire import Message
from .worker_code import WorkerCode

NAMESPACE = "multigpu"
WORKER = "worker/"
"""What the names of our actors begin with."""
SECONDS_TO_ANSWER = 2.0
SECONDS_WITHOUT_HOME = 20.0
"""A worker that was not pinged for so long ends itself: home has died, or is cut off."""


class RayEngine:
    """A connection of this process to its machine's cluster; a process can have one. `connecting.py` makes it."""

    def __init__(self, member: Membership, code: WorkerCode) -> None:
        """Connect.

        Raises:
            ClusterError: the cluster does not answer, or refuses the token.
        """
        self._code = code
        logging.getLogger("ray").setLevel(logging.ERROR)  # what it warns of here is as it should be
        self._bundle = TemporaryDirectory(prefix="multigpu-worker-")
        try:
            working_dir = make_bundle(Path(self._bundle.name) / "code", code.others)
            ray.init(
                address=member.ray_address,
                namespace=NAMESPACE,
                _node_ip_address=member.own_address,
                log_to_driver=False,
                configure_logging=False,
                include_dashboard=False,
                runtime_env={"working_dir": str(working_dir)},
            )
        except Exception as error:  # Ray raises a kind of its own for each reason
            self._bundle.cleanup()
            raise ClusterError(f"The cluster at {member.ray_address} does not answer: {_sentence(error)}") from error

    def machines(self) -> tuple[Machine, ...]:
        try:
            nodes = ray.nodes()  # type: ignore[no-untyped-call]
        except Exception as error:
            raise ClusterError(f"The cluster does not answer: {_sentence(error)}") from error
        found: dict[str, Machine] = {}
        for node in nodes:
            machine = read_announcement(node["NodeManagerAddress"], node["Resources"]) if node["Alive"] else None
            if machine is not None:
                found.setdefault(machine.name, machine)
        return tuple(sorted(found.values(), key=lambda machine: (not machine.is_home, machine.name)))

    def start(self, machine: str, device: str) -> RayWorker:
        if machine not in (each.name for each in self.machines()):
            raise MachineLostError(machine, "it is not connected")
        actor = _Actor.options(  # type: ignore[attr-defined]
            num_cpus=0,
            resources={machine_resource(machine): 1},
            max_restarts=0,
            name=f"{WORKER}{machine}/{device}/{secrets.token_hex(4)}",
        ).remote(self._code.entry, machine, device)
        return RayWorker(machine, actor)

    def activities(self) -> tuple[Activity, ...]:
        found = []
        for name in ray.util.list_named_actors():
            if name.startswith(WORKER):
                with suppress(RayError, ValueError):  # it has ended meanwhile, or has only begun to start
                    found.append(ray.get(ray.get_actor(name).activity.remote(), timeout=SECONDS_TO_ANSWER))
        return tuple(found)

    def disconnect(self) -> None:
        ray.shutdown()
        self._bundle.cleanup()


class RayWorker:
    """A Ray actor of ours."""

    def __init__(self, machine: str, actor: Any) -> None:
        self._machine = machine
        self._actor = actor

    @property
    def machine(self) -> str:
        return self._machine

    def submit(self, operation: str, message: Message) -> RayCall:
        return RayCall(self._machine, self._actor.carry_out.remote(operation, message))

    def ping(self, seconds: float) -> None:
        _get(self._machine, self._actor.ping.remote(), seconds, seconds)

    def interrupt(self, number: int) -> None:
        self._actor.interrupt.remote(number)

    def end(self) -> None:
        with suppress(RayError, ValueError):
            ray.kill(self._actor, no_restart=True)


class RayCall:
    """A call to an actor."""

    def __init__(self, machine: str, reference: Any) -> None:
        self._machine = machine
        self._reference = reference

    def wait(self, seconds: float) -> Reply | None:
        ready, _ = ray.wait([self._reference], timeout=seconds, fetch_local=True)
        return _get(self._machine, self._reference, None, seconds) if ready else None


def _get(machine: str, reference: Any, timeout: float | None, seconds: float) -> Any:
    try:
        return ray.get(reference, timeout=timeout)
    except GetTimeoutError as error:
        raise MachineLostError(machine, f"it has not answered for {seconds:.1f} s") from error
    except (ActorDiedError, ActorUnavailableError) as error:
        raise MachineLostError(machine, f"its worker has ended: {_sentence(error)}") from error
    except (RayError, RayTaskError) as error:
        raise MachineLostError(machine, _sentence(error)) from error


@ray.remote(concurrency_groups={"control": 2})  # type: ignore[call-overload]
class _Actor:
    """The worker's side: it works in one thread and answers pings in another."""

    def __init__(self, entry: str, machine: str, device: str) -> None:
        self._machine = machine
        module, _, name = entry.partition(":")
        self._operations: Operations = getattr(importlib.import_module(module), name)(device)
        self._pinged = time.monotonic()
        threading.Thread(target=self._end_without_home, name="end without home", daemon=True).start()

    def carry_out(self, operation: str, message: Message) -> Reply:
        return self._operations.carry_out(operation, message)

    @ray.method(concurrency_group="control")
    def ping(self) -> None:
        self._pinged = time.monotonic()

    @ray.method(concurrency_group="control")
    def interrupt(self, number: int) -> None:
        self._operations.interrupt(number)

    @ray.method(concurrency_group="control")
    def activity(self) -> Activity:
        return self._operations.activity(self._machine)

    def _end_without_home(self) -> None:
        while time.monotonic() - self._pinged < SECONDS_WITHOUT_HOME:
            time.sleep(1)
        os._exit(1)


def _sentence(error: BaseException) -> str:
    """What Ray says first of all: the last line of the first cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines: Iterable[str] = (line.strip() for line in str(error).splitlines())
    return (list(filter(None, lines)) or [type(error).__name__])[-1][:500]
