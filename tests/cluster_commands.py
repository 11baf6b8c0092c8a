"""Two machines on Ray, both on this one: the commands start them, and each has simulated accelerators of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from multigpu.multigpu_core.cluster.membership import ClusterFolder
from multigpu.multigpu_core.cluster.ray_process import is_running

NEEDS_RAY = [
    pytest.mark.skipif(sys.platform != "linux", reason="Ray joins machines on Linux only"),
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install -e '.[dev]'"),
]
SECONDS = 120.0
"""Longer than anything here takes on a busy machine; only a fault lets it pass."""


@dataclass
class CommandRunning:
    """A `multigpu cluster` command that runs until it is ended."""

    process: subprocess.Popen[bytes]
    folder: ClusterFolder
    log: Path

    @property
    def printed(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.printed or self.process.poll() is not None)
        assert text in self.printed, self.printed


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def run_command(folder: Path, devices: str, *arguments: str) -> CommandRunning:
    folder.mkdir()
    environment = {**os.environ, "MULTIGPU_CLUSTER": str(folder), "MULTIGPU_SIMULATE": devices}
    log = folder / "printed"
    with log.open("wb") as out:
        command = [sys.executable, "-u", "-m", "multigpu", "cluster", *arguments, "--store-gb", "0.2"]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
    return CommandRunning(process, ClusterFolder(folder), log)


@contextmanager
def home_running(folder: Path, port: int) -> Iterator[CommandRunning]:
    """A cluster that was started, on loopback, with one accelerator of 8 GB."""
    home = run_command(folder, "8gb", "start", "--name", "home", "--address", "127.0.0.2", "--port", str(port))
    try:
        home.wait_for("This machine is in the cluster")
        yield home
    finally:
        end(home)


@contextmanager
def guest_running(home: CommandRunning, folder: Path, *arguments: str) -> Iterator[CommandRunning]:
    """node2, with accelerators of 4 and 2 GB."""
    member = home.folder.membership()
    assert member is not None
    join = ("join", member.ray_address, "--token", home.folder.token(), "--name", "node2", "--address", "127.0.0.3")
    node2 = run_command(folder, "4gb,2gb", *join, "--port", str(member.port + 100), *arguments)
    try:
        node2.wait_for("This machine is in the cluster")
        home.wait_for("node2 at 127.0.0.3 has joined")
        yield node2
    finally:
        end(node2)


def end(command: CommandRunning) -> None:
    command.process.send_signal(signal.SIGTERM)
    assert command.process.wait(SECONDS) == 0, command.printed
    member = command.folder.membership()
    assert member is not None
    assert not any(map(is_running, member.processes)), "nothing of it is left"
