"""`multigpu cluster start | join | status | stop`."""

from __future__ import annotations

import json
import platform
import re
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from multigpu.multigpu_core.cli.comfyui_jobs import own_comfyui
from multigpu.multigpu_core.cluster.announced import checked_name
from multigpu.multigpu_core.cluster.membership import ClusterFolder, Membership
from multigpu.multigpu_core.cluster.protocol import ClusterError
from multigpu.multigpu_core.cluster.ray_process import (
    DEFAULT_PORT,
    address_towards,
    end_processes,
    is_running,
    port_in_use,
    ports_of,
    why_not_here,
)
from multigpu.multigpu_core.cluster.supervisor import leftovers

cluster = typer.Typer(no_args_is_help=True, help="Join machines, so that home can use the devices of the others.")
SOMEWHERE = "192.0.2.1"
"""An address for documentation: the way to it is the way out of this machine."""
SECONDS_TO_STOP = 20.0

Name = Annotated[str, typer.Option(help="This machine's name in device names; by default its host name.")]
Address = Annotated[str, typer.Option(help="This machine's address in the network of the others; found by default.")]
Port = Annotated[int, typer.Option(min=1024, max=65000, help="The first of the 100 ports that Ray uses here.")]
StoreGb = Annotated[float, typer.Option(min=0.1, help="Shared memory for what is sent and received, in GB.")]


@cluster.command()
def start(name: Name = "", address: Address = "", port: Port = DEFAULT_PORT, store_gb: StoreGb = 2.0) -> None:
    """Start a cluster here, at home, and keep it running until Ctrl+C. Prints the command for the other machines.

    Exit 0: ended by Ctrl+C or `multigpu cluster stop`; 1: it could not start; 2: invalid usage.
    """
    folder = _ready()
    try:
        own = address or address_towards(SOMEWHERE)
        member = Membership(checked_name(name or _host_name()), True, own, own, port, port)
        _make_way(folder, member)
        token = folder.make_token()
    except ClusterError as error:
        raise _invalid(error) from None
    typer.echo("On each other machine:")
    typer.echo(f"    multigpu cluster join {own}{'' if port == DEFAULT_PORT else f':{port}'} --token {token}")
    typer.echo(f"Whoever has this token can run code here. Open the ports {ports_of(port)} to those machines only.")
    _run(folder, member, store_gb)


@cluster.command()
def join(
    home: Annotated[str, typer.Argument(metavar="[ADDRESS]", help="Home's address; by default as last time.")] = "",
    token: Annotated[
        str, typer.Option(envvar="MULTIGPU_CLUSTER_TOKEN", help="Home's token; by default as last time.")
    ] = "",
    name: Name = "",
    address: Address = "",
    port: Port = DEFAULT_PORT,
    store_gb: StoreGb = 2.0,
    models: Annotated[
        list[Path] | None,
        typer.Option(exists=True, file_okay=False, help="A folder with model files, also several times."),
    ] = None,
    cache_gb: Annotated[float, typer.Option(min=0.0, help="The most that files from home may take here, in GB.")] = 50,
) -> None:
    """Join the cluster of another machine and stay in it until Ctrl+C.

    Exit 0: ended by Ctrl+C or `multigpu cluster stop`; 1: home refused it, or Ray did not start; 2: invalid usage.
    """
    folder = _ready()
    try:
        member = _guest(folder, home, name, address, port)
        folders = tuple(str(each.resolve()) for each in models or _usual_models())
        member = replace(member, model_folders=folders, cache_bytes=int(cache_gb * 1e9))
        _make_way(folder, member)
        if token:
            folder.keep_token(token)
        folder.token()
    except ClusterError as error:
        raise _invalid(error) from None
    _run(folder, member, store_gb)


@cluster.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False) -> None:
    """Show the machines, their devices and free memory, the speed of the way to each, and what runs there.

    Exit 0: all that are connected can be used; 1: one cannot, or the cluster does not answer; 2: invalid usage.
    """
    folder = _ready()
    member = folder.membership()
    if member is None:
        raise _invalid(ClusterError("This machine is in no cluster: multigpu cluster start, or multigpu cluster join."))
    from multigpu.multigpu_core.cluster.connecting import connect
    from multigpu.multigpu_core.cluster.worker_code import WorkerCode

    from .report import print_status
    from .status import cluster_status, status_json

    try:
        with Console(stderr=True).status("Asking every machine"):
            engine = connect(member, folder, WorkerCode(f"{__package__}.worker_process:looking_around"))
            statuses = cluster_status(engine, folder.machines() if member.is_home else ())
    except ClusterError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    if member.is_home:
        folder.keep_machines(tuple(each.machine for each in statuses))
    if as_json:
        report = {"home": member.ray_address, "machines": [status_json(each) for each in statuses]}
        typer.echo(json.dumps(report, indent=2))
    else:
        print_status(Console(), statuses)
    engine.disconnect()
    raise typer.Exit(int(not all(each.is_well for each in statuses if each.is_connected)))


@cluster.command()
def stop() -> None:
    """End the cluster's processes on this machine that `start` or `join` started, and no others.

    Exit 0, also if there were none.
    """
    folder = _folder()
    member = folder.membership()
    ended = 0
    if member is not None:
        supervisor = (member.supervisor,) if member.supervisor is not None else ()
        ended = end_processes(supervisor, SECONDS_TO_STOP) + end_processes(member.processes)
    folder.forget()
    typer.echo("This machine has left the cluster." if ended else "Nothing of the cluster was running here.")


def _folder() -> ClusterFolder:
    return ClusterFolder()


def _ready() -> ClusterFolder:
    if reason := why_not_here():
        raise _invalid(ClusterError(reason))
    return _folder()


def _invalid(error: ClusterError) -> typer.Exit:
    typer.echo(f"error: {error}", err=True)
    return typer.Exit(2)


def _guest(folder: ClusterFolder, home: str, name: str, address: str, port: int) -> Membership:
    """What this machine is to be, from what was typed and what it was last time."""
    before = folder.membership()
    if not home and (before is None or before.is_home):
        raise ClusterError("Name home's address, as `multigpu cluster start` prints it there.")
    host, _, home_port = home.partition(":") if home or before is None else before.ray_address.partition(":")
    if home_port and not home_port.isdecimal():
        raise ClusterError(f"{home!r} is no address: it is like 192.168.1.10, or 192.168.1.10:{DEFAULT_PORT}.")
    known = before.name if before is not None and not before.is_home else _host_name()
    own = address or address_towards(host)
    return Membership(checked_name(name or known), False, own, host, int(home_port or DEFAULT_PORT), port)


def _make_way(folder: ClusterFolder, member: Membership) -> None:
    """Refuse to be in two clusters, and end what a killed command left running."""
    before = folder.membership()
    if before is not None and is_running(before.supervisor):
        raise ClusterError(
            f"This machine is in a cluster already, as {before.name}. To leave it: multigpu cluster stop"
        )
    leftovers(before)
    if (port := port_in_use(member.own_address, member.port)) is not None:
        raise ClusterError(f"Port {port} of {member.own_address} is not free. Choose others with --port.")


def _usual_models() -> list[Path]:
    """The model folder of the ComfyUI in which this copy is."""
    comfyui = own_comfyui()
    models = comfyui / "models" if comfyui is not None else None
    return [models] if models is not None and models.is_dir() else []


def _host_name() -> str:
    """The host name as a machine's name."""
    name = re.sub(r"[^a-z0-9-]+", "-", platform.node().lower().partition(".")[0]).strip("-")[:31]
    return name if name[:1].isalpha() else f"pc-{name}"[:31]


def _run(folder: ClusterFolder, member: Membership, store_gb: float) -> None:
    from .running import keep_running

    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        keep_running(folder, member, int(store_gb * 1e9), stopped)
    except ClusterError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
