"""What a machine keeps of its cluster in a folder: the token, what it is in the cluster, and which machines are known.

The token is in a file of its own that only its owner can read, and is nowhere else: Ray is told that file's name.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from multigpu.multigpu_core.bounded_json import parse_json
from multigpu.multigpu_core.files import read_bounded, write_atomically

from .protocol import ClusterError, Machine, RemoteDevice

FOLDER_VARIABLE = "MULTIGPU_CLUSTER"
MAX_BYTES = 1 << 20
TOKEN_BYTES = 32
_TOKEN = re.compile(r"[0-9A-Za-z_-]{32,256}")


@dataclass(frozen=True)
class OwnProcess:
    """A process that we started: the time of its start tells it from a later one with its number."""

    pid: int
    created: float


@dataclass(frozen=True)
class Membership:
    """What this machine is in its cluster."""

    name: str
    is_home: bool
    own_address: str
    home_address: str
    home_port: int
    """The first of home's ports; home's Ray answers there."""
    port: int
    """The first of this machine's ports."""
    model_folders: tuple[str, ...] = ()
    """Where it looks for model files before home sends them."""
    cache_bytes: int = 50_000_000_000
    """The most that files from home may take."""
    supervisor: OwnProcess | None = None
    """The command that keeps Ray running here."""
    processes: tuple[OwnProcess, ...] = ()
    """Ray's own, as far as that command started them."""

    @property
    def ray_address(self) -> str:
        return f"{self.home_address}:{self.home_port}"


class ClusterFolder:
    """That folder. What is in it survives the end of every process, and a restart of the machine."""

    def __init__(self, folder: Path | None = None, environ: Mapping[str, str] = os.environ) -> None:
        self.path = folder or _usual_folder(environ)

    @property
    def token_file(self) -> Path:
        return self.path / "token"

    def token(self) -> str:
        """The cluster's token, as kept here.

        Raises:
            ClusterError: there is none, or it cannot be read.
        """
        try:
            return _checked_token(read_bounded(self.token_file, MAX_BYTES).decode("ascii", "replace").strip())
        except (OSError, ValueError) as error:
            raise ClusterError(f"There is no token in {self.token_file}. Give the one that home printed.") from error

    def token_is_private(self) -> bool:
        """Whether nobody but its owner may read the token; true without one."""
        try:
            return not self.token_file.stat().st_mode & 0o077
        except OSError:
            return True

    def make_token(self) -> str:
        """The token that is kept here; a new one where there is none."""
        with suppress(ClusterError):
            return self.token()
        return self.keep_token(secrets.token_hex(TOKEN_BYTES))

    def keep_token(self, token: str) -> str:
        """Keep a token where only its owner can read it.

        Raises:
            ClusterError: it is no token.
        """
        checked = _checked_token(token.strip())
        self._make()
        with suppress(FileNotFoundError):
            self.token_file.unlink()
        descriptor = os.open(self.token_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(checked)
        return checked

    def membership(self) -> Membership | None:
        """What this machine is in its cluster; None where it is in none."""
        content = self._read("member.json")
        try:
            supervisor = content["supervisor"]
            return Membership(
                **{
                    **content,
                    "model_folders": tuple(content["model_folders"]),
                    "supervisor": OwnProcess(**supervisor) if supervisor else None,
                    "processes": tuple(OwnProcess(**each) for each in content["processes"]),
                }
            )
        except (KeyError, TypeError):
            return None

    def keep_membership(self, membership: Membership) -> None:
        self._write("member.json", asdict(membership))

    def machines(self) -> tuple[Machine, ...]:
        """The machines that home saw last, home itself left out. Cheap: it reads one small file."""
        content = self._read("machines.json")
        try:
            return tuple(
                Machine(
                    str(each["name"]),
                    str(each["address"]),
                    tuple(RemoteDevice(str(one["name"]), int(one["total_bytes"])) for one in each["devices"]),
                )
                for each in content["machines"]
            )
        except (KeyError, TypeError, ValueError):
            return ()

    def keep_machines(self, machines: tuple[Machine, ...]) -> None:
        """Remember these, and those that were known before and are not among them."""
        seen = {machine.name for machine in machines}
        others = [machine for machine in self.machines() if machine.name not in seen]
        known = [replace(each, is_home=False) for each in machines if not each.is_home]
        self._write("machines.json", {"machines": [asdict(each) for each in sorted([*known, *others], key=_name)]})

    def forget(self) -> None:
        """Forget the cluster; the token stays, so that machines that join again need no other."""
        for name in ("member.json", "machines.json"):
            with suppress(FileNotFoundError):
                (self.path / name).unlink()

    def _make(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            content = parse_json(read_bounded(self.path / name, MAX_BYTES))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _write(self, name: str, content: Any) -> None:
        self._make()
        write_atomically(self.path / name, json.dumps(content, indent=2))


def _usual_folder(environ: Mapping[str, str]) -> Path:
    if environ.get(FOLDER_VARIABLE):
        return Path(environ[FOLDER_VARIABLE])
    state = environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return Path(state) / "multigpu" / "cluster"


def _checked_token(token: str) -> str:
    if not _TOKEN.fullmatch(token):
        raise ClusterError("This is no token: it is the line of 64 letters and digits that home printed.")
    return token


def _name(machine: Machine) -> str:
    return machine.name
