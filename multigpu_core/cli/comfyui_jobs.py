"""Find the ComfyUI of a command and run a job in it, in a process of its own with ComfyUI's own Python."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import multigpu
from multigpu.multigpu_core.provisioning import process as comfyui_process
from multigpu.multigpu_core.provisioning.release import ProvisioningError, comfyui_folder, is_comfyui

from . import inside_comfyui

PYTHONS = (
    ".venv/bin/python", "venv/bin/python", ".venv/Scripts/python.exe", "venv/Scripts/python.exe",
    "../python_embeded/python.exe",
)  # fmt: skip
"""Where installations of ComfyUI keep the Python that runs them, from its folder; the spelling is ComfyUI's."""


class ComfyUIJobError(RuntimeError):
    """A ComfyUI could not be found, could not be imported, or did not do a job; the message is for the user."""


@dataclass(frozen=True)
class Job:
    """What is to be done in a ComfyUI: `name` is one of `multigpu_core.comfy.trials.jobs`.

    `packs` are the folders of node packs that it needs, `flags` what ComfyUI is started with.
    """

    name: str
    arguments: Mapping[str, Any]
    packs: Sequence[Path] = ()
    flags: Sequence[str] = ()


def own_comfyui() -> Path | None:
    """The ComfyUI in whose custom_nodes this copy is."""
    folder = Path(multigpu.__file__).absolute().parent
    return folder.parent.parent if folder.parent.name == "custom_nodes" else None


def some_comfyui(chosen: Path | None) -> Path:
    """The one that was chosen, or whose custom_nodes we are in, or that the demo uses: `COMFYUI_PATH`, or a release.

    Raises:
        ComfyUIJobError: the folder holds none, or none can be brought.
    """
    folder = chosen or own_comfyui()
    try:
        folder = comfyui_folder() if folder is None else folder.expanduser().resolve()
    except ProvisioningError as error:
        raise ComfyUIJobError(f"{error} Or name it: --comfyui PATH.") from error
    if not is_comfyui(folder):
        raise ComfyUIJobError(f"{folder} is not a ComfyUI: name the folder that contains main.py and nodes.py.")
    return folder


def python_of(comfyui: Path) -> Path:
    """The Python that runs a ComfyUI: one inside or beside its folder, else the one that runs this."""
    return next((path for name in PYTHONS if (path := comfyui / name).is_file()), Path(sys.executable))


def done_in(comfyui: Path, job: Job, seconds: float | None = None) -> dict[str, Any]:
    """A job's answer.

    Raises:
        ComfyUIJobError: it ended without one, or took longer than `seconds`; or its answer is an ``error``.
    """
    python = python_of(comfyui)
    request = {
        "comfyui": str(comfyui),
        "flags": list(job.flags),
        "packs": [str(pack) for pack in job.packs],
        "job": job.name,
        "arguments": job.arguments,
    }
    with tempfile.TemporaryDirectory(prefix="multigpu-") as name:
        asked, answered, log = (Path(name) / file for file in ("request.json", "result.json", "log.txt"))
        asked.write_text(json.dumps(request), encoding="utf-8")
        command = [str(python), comfyui_process.__file__, inside_comfyui.__file__, str(asked), str(answered)]
        with log.open("wb") as out:
            try:
                # The pipe that is never written to: the process ends with this one.
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, cwd=comfyui
                )
            except OSError as error:
                raise ComfyUIJobError(f"{python} cannot be started: {error}") from error
            with process:
                try:
                    process.wait(seconds)
                except BaseException as error:
                    process.kill()
                    if isinstance(error, subprocess.TimeoutExpired):
                        raise ComfyUIJobError(f"{comfyui} did not answer within {seconds:.0f} s.") from None
                    raise
        if not answered.is_file():
            raise ComfyUIJobError(
                _why(comfyui, python, process.returncode, log.read_text(encoding="utf-8", errors="replace"))
            )
        answer: dict[str, Any] = json.loads(answered.read_text(encoding="utf-8"))
    if "error" in answer:
        raise ComfyUIJobError(answer["error"])
    return answer


def _why(comfyui: Path, python: Path, exit_code: int, log: str) -> str:
    if exit_code < 0:
        name = signal.strsignal(-exit_code) or "unknown"
        killed = " The system kills a process that uses too much memory." if exit_code == -signal.SIGKILL else ""
        return f"ComfyUI in {comfyui} was ended by signal {-exit_code} ({name}).{killed}"
    lines = [line for line in log.splitlines() if line.strip()]
    last = lines[-1] if lines else "it printed nothing"
    hint = ""
    if "ModuleNotFoundError" in last:
        hint = f" Install what is missing into the Python that runs ComfyUI, here {python}."
    return f"ComfyUI in {comfyui} ended without a result: {last}.{hint}"
