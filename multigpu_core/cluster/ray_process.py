"""`ray start --block` as a process of ours: its command line, its environment, its ports, and its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil

from .membership import ClusterFolder, Membership, OwnProcess
from .protocol import ClusterError

INSTALL = "Install Ray into this Python: pip install 'multigpu-nodes[cluster]', or pip install ray==2.60.0 blake3."
LINUX_ONLY = (
    "Machines can be joined on Linux and in WSL2 only, because Ray works over a network only there. On Windows install "
    "WSL2 and run ComfyUI in it."
)
DEFAULT_PORT = 46200
WORKER_PORTS = 60
PORTS = 100
"""How many ports from the first on belong to a machine."""
SECONDS_TO_END = 3.0

_PORT_OPTIONS = (
    "node-manager-port",
    "object-manager-port",
    "runtime-env-agent-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "metrics-export-port",
)
_SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",  # devices keep their numbers
    "RAY_memory_monitor_refresh_ms": "0",  # it would end workers while a model loads
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL": "minor",
}


@dataclass(frozen=True)
class RayOptions:
    """What Ray is started with, beside what the membership says."""

    resources: Mapping[str, float]
    object_store_bytes: int


def why_not_here() -> str:
    """Why there can be no cluster with this machine's Python, and what to do; empty if there can."""
    if sys.platform != "linux":
        return LINUX_ONLY
    return INSTALL if find_spec("ray") is None else ""


def ports_of(first: int) -> str:
    """The ports of a machine, for its firewall."""
    return f"{first}-{first + PORTS - 1}"


def ray_environment(folder: ClusterFolder, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of every process that has to do with Ray. It names the token's file, never the token."""
    ours = {name: value for name, value in environ.items() if name != "RAY_AUTH_TOKEN"}
    return ours | _SETTINGS | {"RAY_AUTH_TOKEN_PATH": str(folder.token_file), "MULTIGPU_CLUSTER": str(folder.path)}


def ray_command(member: Membership, options: RayOptions) -> list[str]:
    """The command that starts Ray on this machine and ends when Ray does."""
    first = member.port
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    command += ["--head", f"--port={first}"] if member.is_home else [f"--address={member.ray_address}"]
    command += [f"--{name}={first + 1 + at}" for at, name in enumerate(_PORT_OPTIONS)]
    lowest = first + PORTS - WORKER_PORTS
    command += [f"--min-worker-port={lowest}", f"--max-worker-port={lowest + WORKER_PORTS - 1}"]
    command += [
        f"--node-ip-address={member.own_address}",
        "--num-cpus=0",
        "--num-gpus=0",
        "--include-log-monitor=false",
    ]
    command += ["--include-log-monitor=false"]
    command += ["--include-dashboard=false"] if member.is_home else []
    command += [f"--object-store-memory={options.object_store_bytes}", f"--resources={json.dumps(options.resources)}"]
    return command


def start_ray(member: Membership, options: RayOptions, folder: ClusterFolder, log: Path) -> subprocess.Popen[bytes]:
    """Start Ray; what it prints goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        # A session of its own: an interrupt from the terminal reaches us alone, and we end Ray in order.
        return subprocess.Popen(
            ray_command(member, options),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=ray_environment(folder),
            start_new_session=True,
        )


def own_process(pid: int | None = None) -> OwnProcess:
    """A process, so that it can be told from a later one of the same number."""
    process = psutil.Process(pid)
    return OwnProcess(process.pid, process.create_time())


def descendants(pid: int) -> tuple[OwnProcess, ...]:
    """A process and all that it started."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return tuple(OwnProcess(each.pid, each.create_time()) for each in family)
    except psutil.Error:
        return ()


def is_running(process: OwnProcess | None) -> bool:
    return process is not None and _found(process) is not None


def end_processes(processes: Iterable[OwnProcess], seconds: float = SECONDS_TO_END) -> int:
    """End these of our processes, gently at first; the number that were running. Nobody else's is touched."""
    running = [found for each in processes if (found := _found(each)) is not None]
    for found in running:
        _send(found, signal.SIGTERM)
    _, alive = psutil.wait_procs(running, timeout=seconds)
    for found in alive:
        _send(found, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=seconds)
    return len(running)


def address_towards(host: str) -> str:
    """The address of this machine in the network in which `host` is; no packet is sent.

    Raises:
        ClusterError: there is no way to it.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise ClusterError(f"There is no way to {host} from here: {error}") from error


def port_in_use(address: str, first: int) -> int | None:
    """A port among those that Ray listens on here that somebody uses already; None if all are free."""
    for port in range(first, first + 1 + len(_PORT_OPTIONS)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return port
    return None


def _found(process: OwnProcess) -> psutil.Process | None:
    try:
        found = psutil.Process(process.pid)
        is_ours = abs(found.create_time() - process.created) < 1 and found.status() != psutil.STATUS_ZOMBIE
        return found if is_ours else None
    except psutil.Error:
        return None


def _send(process: psutil.Process, number: int) -> None:
    with suppress(psutil.Error):
        process.send_signal(number)
