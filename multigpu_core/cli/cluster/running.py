"""What `start` and `join` do until they are stopped: keep Ray running, and at home see who comes and goes."""

from __future__ import annotations

import threading
import time

import typer

from multigpu.multigpu_core.cluster.announced import announced
from multigpu.multigpu_core.cluster.connecting import connect
from multigpu.multigpu_core.cluster.membership import ClusterFolder, Membership
from multigpu.multigpu_core.cluster.protocol import ClusterError, Engine, Machine, RemoteDevice
from multigpu.multigpu_core.cluster.ray_process import RayOptions
from multigpu.multigpu_core.cluster.supervisor import Supervisor
from multigpu.multigpu_core.cluster.worker_code import WorkerCode

GIB = 1024**3
SECONDS_BETWEEN_LOOKS = 3.0


def keep_running(folder: ClusterFolder, member: Membership, store_bytes: int, stopped: threading.Event) -> None:
    """Keep this machine in its cluster until `stopped`.

    Raises:
        ClusterError: it cannot be, and why.
    """
    devices = _devices()
    typer.echo(f"{member.name} has {_listed(devices)}")
    options = RayOptions(announced(member.name, devices, is_home=member.is_home), store_bytes)
    folder.keep_membership(member)
    supervisor = Supervisor(member, options, folder, typer.echo)
    visitors = _Visitors(folder, member)
    try:
        supervisor.run(stopped, visitors.look if member.is_home else lambda: None)
    finally:
        visitors.leave()


class _Visitors:
    """Who is in the cluster, as home sees it: what changes is printed, and kept for ComfyUI's menus."""

    def __init__(self, folder: ClusterFolder, member: Membership) -> None:
        self._folder = folder
        self._member = member
        self._engine: Engine | None = None
        self._seen: dict[str, Machine] = {}
        self._next_look = 0.0

    def look(self) -> None:
        if time.monotonic() < self._next_look:
            return
        try:
            if self._engine is None:
                code = WorkerCode(f"{__package__}.worker_process:looking_around")
                self._engine = connect(self._member, self._folder, code)
            self._note({each.name: each for each in self._engine.machines() if not each.is_home})
        except ClusterError as error:
            typer.echo(str(error))
            self.leave()
        self._next_look = time.monotonic() + SECONDS_BETWEEN_LOOKS

    def leave(self) -> None:
        if self._engine is not None:
            self._engine.disconnect()
            self._engine = None

    def _note(self, there: dict[str, Machine]) -> None:
        for name in there.keys() - self._seen.keys():
            typer.echo(f"{name} at {there[name].address} has joined, with {_listed(there[name].devices)}")
        for name in self._seen.keys() - there.keys():
            typer.echo(f"{name} is gone.")
        if there != self._seen:
            self._folder.keep_machines(tuple(there.values()))
        self._seen = there


def _devices() -> tuple[RemoteDevice, ...]:
    from multigpu.multigpu_core.devices import default_registry

    infos = default_registry().survey(wake=False).devices
    return tuple(RemoteDevice(info.name, info.total_bytes) for info in infos)


def _listed(devices: tuple[RemoteDevice, ...]) -> str:
    return ", ".join(f"{each.name} ({each.total_bytes / GIB:.0f} GB)" for each in devices)
