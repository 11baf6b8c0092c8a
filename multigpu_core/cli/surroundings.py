"""What `multigpu doctor` looks at, read once; tests make up others."""

from __future__ import annotations

import csv
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import multigpu
from multigpu.multigpu_core.plugins import name_of_pack, packs_in, plain_name, read_configuration, user_files

if TYPE_CHECKING:
    from multigpu.multigpu_core.devices import DeviceInfo

_NVIDIA_SMI = ("name", "pcie.link.gen.current", "pcie.link.gen.max", "pcie.link.width.current", "pcie.link.width.max")
_VERSION = re.compile(r"__version__\s*=\s*[\"']([^\"']+)")


@dataclass(frozen=True)
class CardLink:
    """The PCIe link of an NVIDIA card: generation and lanes, now and at most; an idle card slows its link down."""

    name: str
    generation: int
    most_generation: int
    width: int
    most_width: int


@dataclass(frozen=True)
class Surroundings:
    """The machine, its Python and its ComfyUI; sizes in bytes."""

    python: tuple[int, int] = (3, 11)
    torch: tuple[int, int] = (2, 11)
    system: str = "Linux"
    is_wsl: bool = False
    environ: Mapping[str, str] = field(default_factory=dict)
    comfyui: Path | None = None
    comfyui_version: str = ""
    rivals: tuple[str, ...] = ()
    """Folders of the existing ComfyUI-MultiGPU."""
    settings_problems: tuple[str, ...] = ()
    devices: tuple[DeviceInfo, ...] = ()
    device_problems: tuple[str, ...] = ()
    blind_pairs: tuple[tuple[str, str], ...] = ()
    """Cards of which the first cannot read the second's memory."""
    is_profiled: bool = True
    swap_bytes: int | None = None
    links: tuple[CardLink, ...] = ()


def surroundings(comfyui: Path | None) -> Surroundings:
    """Those of this process; `comfyui` is its folder, or None for the one in whose custom_nodes we are."""
    import torch

    from multigpu.multigpu_core.devices import default_registry, load_profile

    registry = default_registry()
    survey = registry.survey()
    cards = [info.name for info in survey.devices if info.name != "cpu"]
    folder = comfyui or _own_comfyui()
    user = folder / "user" if folder is not None else None
    shipped = Path(multigpu.__file__).parent / "plugins.toml"
    packs = packs_in([folder / "custom_nodes"]) if folder is not None else ()
    return Surroundings(
        python=(sys.version_info.major, sys.version_info.minor),
        torch=_two_numbers(torch.__version__),
        system=platform.system(),
        is_wsl="microsoft" in platform.release().lower(),
        environ=dict(os.environ),
        comfyui=folder,
        comfyui_version=_version(folder) if folder is not None else "",
        rivals=tuple(pack.name for pack in packs if plain_name(name_of_pack(pack) or pack.name) == "comfyui-multigpu"),
        settings_problems=tuple(map(str, read_configuration([shipped, *user_files(user)]).problems)),
        devices=survey.devices,
        device_problems=tuple(f"{problem.subject}: {problem.error}" for problem in survey.problems),
        blind_pairs=tuple((a, b) for a in cards for b in cards if a != b and not registry.has_peer_access(a, b)),
        is_profiled=load_profile(registry) is not None,
        swap_bytes=_swap_bytes(),
        links=tuple(_links()),
    )


def _own_comfyui() -> Path | None:
    """The ComfyUI in whose custom_nodes this checkout is."""
    folder = Path(multigpu.__file__).absolute().parent
    return folder.parent.parent if folder.parent.name == "custom_nodes" else None


def _version(comfyui: Path) -> str:
    file = comfyui / "comfyui_version.py"
    found = _VERSION.search(file.read_text(encoding="utf-8")) if file.is_file() else None
    return found[1] if found else ""


def _two_numbers(version: str) -> tuple[int, int]:
    numbers = [int(number) for number in re.findall(r"\d+", version)[:2]]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)


def _swap_bytes() -> int | None:
    """None where the system does not tell."""
    meminfo = Path("/proc/meminfo")
    found = re.search(r"^SwapTotal:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE) if meminfo.is_file() else None
    return int(found[1]) * 1024 if found else None


def _links() -> list[CardLink]:
    """Of every NVIDIA card; none where there is no nvidia-smi, or it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={','.join(_NVIDIA_SMI)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in row] for row in csv.reader(answer.splitlines())]
    return [CardLink(row[0], *map(int, row[1:])) for row in rows if len(row) == 5 and all(c.isdigit() for c in row[1:])]
