"""Ray is started, watched, started again and ended; here a short script stands for it."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from multigpu.multigpu_core.cluster import ray_process
from multigpu.multigpu_core.cluster.membership import ClusterFolder, Membership
from multigpu.multigpu_core.cluster.protocol import ClusterError
from multigpu.multigpu_core.cluster.ray_process import (
    OwnProcess,
    RayOptions,
    end_processes,
    is_running,
    own_process,
    port_in_use,
    ray_command,
    ray_environment,
)
from multigpu.multigpu_core.cluster.supervisor import STARTED, Pauses, Supervisor, leftovers

SECONDS = 20.0
QUICK = Pauses(between_looks=0.01, before_next_try=0.01, to_start=SECONDS)
HOME = Membership("home", True, "127.0.0.1", "127.0.0.1", 46200, 46200)
OPTIONS = RayOptions({"multigpu/home": 1000}, 1 << 28)
UP = f"print({STARTED!r}, flush=True); import sys, time; time.sleep({SECONDS})"
Runs = Callable[[str], None]


@pytest.fixture
def folder(tmp_path: Path) -> ClusterFolder:
    folder = ClusterFolder(tmp_path)
    folder.make_token()
    return folder


@pytest.fixture
def ray_runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Chooses the script that stands for Ray."""

    def runs(script: str) -> None:
        monkeypatch.setattr(ray_process, "ray_command", lambda member, options: [sys.executable, "-c", script])

    return runs


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def stopped() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def _supervisor(folder: ClusterFolder, said: list[str], member: Membership = HOME) -> Supervisor:
    return Supervisor(member, OPTIONS, folder, said.append, QUICK)


def test_ray_runs_until_it_is_stopped_and_nothing_of_it_is_left(
    folder: ClusterFolder, ray_runs: Runs, said: list[str], stopped: threading.Event
) -> None:
    ray_runs(f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {UP!r}]); child.wait()")
    _supervisor(folder, said).run(stopped, stopped.set)
    member = folder.membership()
    assert member is not None and member.supervisor == own_process()
    assert len(member.processes) == 2, "Ray, and what it started"
    assert not any(map(is_running, member.processes))


def test_ray_is_started_again_when_it_ends(
    folder: ClusterFolder, ray_runs: Runs, said: list[str], stopped: threading.Event
) -> None:
    ray_runs(UP)
    seen: list[OwnProcess] = []

    def end_the_first() -> None:
        member = folder.membership()
        assert member is not None
        if member.processes[0] not in seen:
            seen.append(member.processes[0])
            if len(seen) == 1:
                end_processes(member.processes)
            else:
                stopped.set()

    _supervisor(folder, said).run(stopped, end_the_first)
    assert len(seen) == 2
    assert any("Starting it again" in line for line in said)


def test_a_ray_that_never_starts_is_an_error_with_its_reason(
    folder: ClusterFolder, ray_runs: Runs, said: list[str], stopped: threading.Event
) -> None:
    ray_runs("raise RuntimeError('Version mismatch: Python 3.12 and 3.11')")
    with pytest.raises(ClusterError, match=r"Ray did not start: Version mismatch: Python 3\.12 and 3\.11"):
        _supervisor(folder, said).run(stopped)


def test_a_refused_token_is_called_that(
    folder: ClusterFolder, ray_runs: Runs, said: list[str], stopped: threading.Event
) -> None:
    ray_runs("raise RuntimeError('RPC error: InvalidAuthToken: Authentication token is missing or incorrect')")
    with pytest.raises(ClusterError, match="home refuses the token"):
        _supervisor(folder, said).run(stopped)


def test_a_guest_waits_for_a_home_that_is_not_there_yet(
    folder: ClusterFolder, ray_runs: Runs, said: list[str], stopped: threading.Event
) -> None:
    ray_runs(UP)
    with socket.socket() as home:
        home.bind(("127.0.0.1", 0))
        port = home.getsockname()[1]
        guest = Membership("node2", False, "127.0.0.1", "127.0.0.1", port, 46300)

        def say(line: str) -> None:
            said.append(line)
            home.listen()  # from now on it answers

        Supervisor(guest, OPTIONS, folder, say, QUICK).run(stopped, stopped.set)
    assert said[0] == f"Home does not answer at 127.0.0.1:{port}. Waiting for it."
    assert "in the cluster" in said[1]


def test_what_a_killed_command_left_is_ended_and_nobody_elses_process_is(
    folder: ClusterFolder, ray_runs: Runs, said: list[str]
) -> None:
    ray_runs(UP)
    left = ray_process.start_ray(HOME, OPTIONS, folder, folder.path / "log")
    ours = own_process(left.pid)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        theirs = own_process(stranger.pid)
        number_used_again = OwnProcess(theirs.pid, theirs.created - 3600)
        member = Membership("home", True, "", "", 1, 1, processes=(ours, number_used_again))
        assert leftovers(member) == 1
        left.wait(SECONDS)
        assert not is_running(ours) and is_running(theirs)


def test_the_token_is_in_no_command_and_in_no_environment(folder: ClusterFolder) -> None:
    token = folder.token()
    guest = Membership("node2", False, "192.0.2.2", "192.0.2.1", 46200, 46300)
    environment = ray_environment(folder, {"RAY_AUTH_TOKEN": token, "PATH": "/bin"})
    for text in (*ray_command(HOME, OPTIONS), *ray_command(guest, OPTIONS), *environment.values()):
        assert token not in text
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_AUTH_TOKEN_PATH"] == str(folder.token_file)


def test_every_port_of_a_machine_is_among_its_hundred() -> None:
    guest = Membership("node2", False, "192.0.2.2", "192.0.2.1", 46200, 46300)
    ports = [int(part.partition("=")[2]) for part in ray_command(guest, OPTIONS) if "port=" in part]
    assert len(ports) == len(set(ports)) == 8
    assert all(46300 <= port < 46400 for port in ports)


def test_a_port_that_is_used_is_found() -> None:
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        port = used.getsockname()[1]
        assert port_in_use("127.0.0.1", port - 2) == port
