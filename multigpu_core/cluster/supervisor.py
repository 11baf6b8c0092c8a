"""Keep Ray running on this machine: start it, notice its end, start it again, and end it when asked."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from .membership import ClusterFolder, Membership
from .protocol import ClusterError
from .ray_process import RayOptions, descendants, end_processes, own_process, start_ray

Say = Callable[[str], None]
STARTED = "Ray runtime started"
_ERROR = re.compile(r"^(?:[\w.]*(?:Error|Exception)): (?P<what>.+)")
_TOKEN_WORDS = ("InvalidAuthToken", "Authentication")


@dataclass(frozen=True)
class Pauses:
    """How long the supervisor waits, in seconds."""

    between_looks: float = 0.5
    before_next_try: float = 5.0
    to_start: float = 120.0


class Supervisor:
    """Ray on this machine, as long as `run` runs."""

    def __init__(
        self, member: Membership, options: RayOptions, folder: ClusterFolder, say: Say, pauses: Pauses | None = None
    ) -> None:
        self._member = member
        self._options = options
        self._folder = folder
        self._say = say
        self._pauses = pauses or Pauses()
        self._log = log_file(folder)

    def run(self, stopped: threading.Event, while_up: Callable[[], None] = lambda: None) -> None:
        """Keep Ray running until `stopped`; `while_up` is called again and again while it does.

        Raises:
            ClusterError: Ray did not even start once, and why. Later failures are reported and tried again.
        """
        was_up = False
        while not stopped.is_set():
            if not self._wait_for_home(stopped):
                return
            with self._ray() as process:
                is_up = self._wait_until_up(process, stopped)
                if not (is_up or was_up or stopped.is_set()):
                    raise ClusterError(f"Ray did not start: {self._reason()}")
                if is_up:
                    was_up = True
                    self._remember(process)
                    self._say("This machine is in the cluster. Ctrl+C leaves it.")
                    self._watch(process, stopped, while_up)
            if not stopped.is_set():
                self._say(f"Ray has ended ({self._reason()}). Starting it again.")
                stopped.wait(self._pauses.before_next_try)

    def _wait_for_home(self, stopped: threading.Event) -> bool:
        """Wait until home's Ray accepts connections; at home there is nothing to wait for. False if stopped first."""
        told = False
        while not (self._member.is_home or _answers(self._member.home_address, self._member.home_port)):
            if not told:
                self._say(f"Home does not answer at {self._member.ray_address}. Waiting for it.")
            told = True
            if stopped.wait(self._pauses.before_next_try):
                return False
        return not stopped.is_set()

    @contextmanager
    def _ray(self) -> Iterator[subprocess.Popen[bytes]]:
        process = start_ray(self._member, self._options, self._folder, self._log)
        family = descendants(process.pid)
        try:
            yield process
        finally:
            kept = self._folder.membership()
            end_processes({*family, *descendants(process.pid), *(kept.processes if kept is not None else ())})
            process.wait()

    def _wait_until_up(self, process: subprocess.Popen[bytes], stopped: threading.Event) -> bool:
        looks = int(self._pauses.to_start / self._pauses.between_looks)
        for _ in range(looks):
            if STARTED in self._printed():
                return True
            if process.poll() is not None or stopped.wait(self._pauses.between_looks):
                return False
        return False

    def _watch(self, process: subprocess.Popen[bytes], stopped: threading.Event, while_up: Callable[[], None]) -> None:
        while process.poll() is None and not stopped.wait(self._pauses.between_looks):
            while_up()

    def _remember(self, process: subprocess.Popen[bytes]) -> None:
        ours = replace(self._member, supervisor=own_process(), processes=descendants(process.pid))
        self._folder.keep_membership(ours)

    def _printed(self) -> str:
        try:
            return self._log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def _reason(self) -> str:
        """Why Ray ended, from what it printed."""
        lines = [line.strip() for line in self._printed().splitlines() if line.strip()]
        if any(word in line for line in lines for word in _TOKEN_WORDS):
            return f"home refuses the token. Copy the line that home prints; the token here is in {self._log.parent}"
        errors = [found["what"] for line in lines if (found := _ERROR.match(line))]
        return (errors or lines or ["it printed nothing"])[-1][:300]


def leftovers(member: Membership | None) -> int:
    """End what a supervisor that was killed has left running; the number of processes."""
    return end_processes(member.processes) if member is not None else 0


def log_file(folder: ClusterFolder) -> Path:
    """What Ray prints on this machine."""
    return folder.path / "ray.log"


def _answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=3):
            return True
    except OSError:
        return False
