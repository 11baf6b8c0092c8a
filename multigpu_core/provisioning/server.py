"""Starts a real ComfyUI server on a free loopback port, with a base directory of its own, and always stops it.

    with ComfyUIServer(comfyui_folder(), base, environment={"MULTIGPU_SIMULATE": "2x2gb"}) as server:
        result = server.client.run(workflow)

The base directory has ComfyUI's own layout: ``custom_nodes``, ``models``, ``input``, ``output``, ``temp``, ``user``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from . import process as comfyui_process
from .client import ComfyUIClient

READY_SECONDS: Final = 600.0
STOP_SECONDS: Final = 10.0
QUIET_ARGUMENTS: Final = ("--disable-auto-launch", "--disable-api-nodes", "--database-url", "sqlite:///:memory:")
SIMULATED_ARGUMENTS: Final = ("--fp32-vae",)
"""Simulated devices compute on the CPU, and many CPUs take a hundred times as long for a convolution in 16 bits."""
LOG_TAIL_LINES: Final = 40


class ServerError(RuntimeError):
    """The server did not start or has died; `log_tail` is the end of what it wrote."""

    def __init__(self, problem: str, log_tail: str) -> None:
        self.log_tail = log_tail
        super().__init__(f"{problem} The end of its log:\n{log_tail}")


class ComfyUIServer:
    """One ComfyUI server process, running while the `with` block does."""

    def __init__(
        self,
        comfyui: Path,
        base_directory: Path,
        *,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        ready_seconds: float = READY_SECONDS,
    ) -> None:
        """`arguments` go to ComfyUI's command line; `environment` is added to this process's own."""
        self.base_directory = base_directory
        self.log_file = base_directory / "comfyui.log"
        self.port = _free_port()
        self._comfyui = comfyui
        self._arguments = tuple(arguments)
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
        self._ready_seconds = ready_seconds
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def client(self) -> ComfyUIClient:
        return ComfyUIClient(f"127.0.0.1:{self.port}", self.base_directory)

    def __enter__(self) -> ComfyUIServer:
        """Starts the server; raises `ServerError` if it ends, or does not answer in time."""
        prepare_base_directory(self.base_directory)
        try:
            self._start()
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the process, by force if it does not go; harmless when it is not running."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.terminate()
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        finally:
            _end_group(process.pid)
            if process.stdin is not None:
                process.stdin.close()

    def log_text(self) -> str:
        """All that the server wrote so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace") if self.log_file.exists() else ""

    def _start(self) -> None:
        command = [sys.executable, comfyui_process.__file__, str(self._comfyui / "main.py")]
        if self._environment.get("MULTIGPU_SIMULATE"):
            command += SIMULATED_ARGUMENTS
        command += ["--listen", "127.0.0.1", "--port", str(self.port), "--base-directory", str(self.base_directory)]
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, *QUIET_ARGUMENTS, *self._arguments],
                cwd=self._comfyui,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches this process alone, which then stops the server in order.
                start_new_session=True,
            )

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self._ready_seconds
        while not self.client.answers():
            if self._process.poll() is not None:
                raise ServerError(f"ComfyUI ended with code {self._process.returncode} at start-up.", self._log_tail())
            if time.monotonic() > deadline:
                raise ServerError(f"ComfyUI did not answer within {self._ready_seconds:.0f} s.", self._log_tail())
            time.sleep(0.1)

    def _log_tail(self) -> str:
        return "\n".join(self.log_text().splitlines()[-LOG_TAIL_LINES:])


def prepare_base_directory(base: Path) -> None:
    """Makes ComfyUI's own folders under `base`; what is there stays."""
    for folder in ("custom_nodes", "input", "models", "output", "temp", "user"):
        (base / folder).mkdir(parents=True, exist_ok=True)


def install_custom_node(base: Path, source: Path, name: str) -> Path:
    """Puts the folder `source` into ``custom_nodes`` under `name`: as a link, or a copy where links cannot be made."""
    prepare_base_directory(base)
    target = base / "custom_nodes" / name
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        shutil.rmtree(target)
    try:
        target.symlink_to(source.resolve(), target_is_directory=True)
    except OSError:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    return target


def _end_group(group: int) -> None:
    """Ends what the server itself started and left behind."""
    if sys.platform != "win32":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
