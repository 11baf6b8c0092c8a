"""Read the input of `multigpu doctor`, once."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from multigpu.multigpu_core.cli.comfyui_jobs import ComfyUIJobError, Job, done_in, own_comfyui
from multigpu.multigpu_core.cli.plugins import plugins_of
from multigpu.multigpu_core.plugins import is_rival, pack_folders, packs_in, plain_name, version_of_pack
from multigpu.multigpu_core.plugins.extensions import file_formats
from multigpu.multigpu_core.provisioning.release import is_comfyui

from .cluster_here import cluster_here
from .nvidia_smi import nvidia_cards
from .running_server import running_server
from .snapshot import InsideComfyUI, PackHere, Snapshot
from .tested_versions import PACKS

if TYPE_CHECKING:
    from multigpu.multigpu_core.devices import DeviceInfo
    from multigpu.multigpu_core.plugins import PluginManager

IMPORT_SECONDS = 600.0
MODEL_FOLDERS = ("diffusion_models", "unet", "checkpoints")
_VERSION = re.compile(r"__version__\s*=\s*[\"']([^\"']+)")
_AIMDO = re.compile(r"^comfy-aimdo\s*==\s*(\S+)", re.MULTILINE)


def snapshot(comfyui: Path | None, server: str = "") -> Snapshot:
    """Those of this process.

    `comfyui` is its folder, or None for the one in whose custom_nodes we are; `server` the address of a running one,
    or nothing for ComfyUI's usual one.
    """
    import psutil

    accelerators = _accelerators()
    folder = comfyui or own_comfyui()
    custom_nodes = [folder / "custom_nodes"] if folder is not None else []
    plugins = plugins_of(custom_nodes, folder / "user" if folder is not None else None)
    # Formats import torch; without it no memory is known to compare a model with.
    largest = _largest_model(folder, plugins) if folder is not None and accelerators.torch else None
    inside, why_not = _inside(folder)
    return Snapshot(
        python=_two_numbers(inside.python) if inside else (sys.version_info.major, sys.version_info.minor),
        torch=_two_numbers(torch) if (torch := inside.torch if inside else accelerators.torch) else None,
        system=platform.system(),
        is_wsl="microsoft" in platform.release().lower(),
        environ=dict(os.environ),
        comfyui=folder,
        comfyui_version=_found(_VERSION, folder / "comfyui_version.py") if folder is not None else "",
        inside=inside,
        why_not_inside=why_not,
        comfy_aimdo_wanted=_found(_AIMDO, folder / "requirements.txt") if folder is not None else "",
        server=running_server(server),
        packs=tuple(_packs(custom_nodes)),
        rivals=tuple(pack.name for pack in packs_in(custom_nodes) if is_rival(pack)),
        settings_problems=tuple(map(str, plugins.problems)),
        failed_plugins=tuple((r.name, r.why_not) for r in plugins.records.values() if r.enabled and r.why_not),
        largest_model=largest,
        devices=accelerators.devices,
        device_problems=accelerators.problems,
        blind_pairs=accelerators.blind_pairs,
        is_profiled=accelerators.is_profiled,
        free_bytes=next((info.free_bytes for info in accelerators.devices if info.name == "cpu"), None),
        swap_bytes=psutil.swap_memory().total,
        free_swap_bytes=psutil.swap_memory().free,
        nvidia_cards=nvidia_cards(),
        cluster=cluster_here(),
    )  # fmt: skip


@dataclass(frozen=True)
class _Accelerators:
    """What this process's torch knows of the machine; of none, nothing."""

    torch: str = ""
    devices: tuple[DeviceInfo, ...] = ()
    problems: tuple[str, ...] = ()
    blind_pairs: tuple[tuple[str, str], ...] = ()
    is_profiled: bool = True


def _accelerators() -> _Accelerators:
    if find_spec("torch") is None:
        return _Accelerators()
    import torch

    from multigpu.multigpu_core.devices import default_registry, load_profile

    registry = default_registry()
    survey = registry.survey()
    cards = [info.name for info in survey.devices if info.name != "cpu"]
    return _Accelerators(
        torch.__version__,
        survey.devices,
        tuple(f"{problem.subject}: {problem.error}" for problem in survey.problems),
        tuple((a, b) for a in cards for b in cards if a != b and not registry.has_peer_access(a, b)),
        bool(os.environ.get("MULTIGPU_SIMULATE")) or load_profile(registry) is not None,
    )


def _inside(comfyui: Path | None) -> tuple[InsideComfyUI | None, str]:
    """What the ComfyUI tells when it is imported, or why it cannot be."""
    if comfyui is None or not is_comfyui(comfyui):
        return None, ""
    try:
        answer = done_in(comfyui.resolve(), Job("readiness", {}, flags=["--cpu"]), IMPORT_SECONDS)
    except ComfyUIJobError as error:
        return None, str(error)
    known = {field.name for field in fields(InsideComfyUI)}
    return InsideComfyUI(**{name: value for name, value in answer.items() if name in known}), ""


def _packs(custom_nodes: list[Path]) -> Iterator[PackHere]:
    here = pack_folders(custom_nodes)
    for name in PACKS:
        pack = here.get(plain_name(name))
        if pack is not None:
            yield PackHere(name, version_of_pack(pack), _commit(pack))


def _commit(pack: Path) -> str:
    """Nothing for a pack that is no clone, or where there is no git."""
    if not (pack / ".git").exists():
        return ""
    command = ["git", "-C", str(pack), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _largest_model(comfyui: Path, plugins: PluginManager) -> tuple[str, int] | None:
    """Name and size of the largest model file of any format, those of plugins included."""
    from multigpu.multigpu_core.allocation.inventory.of_file import model_suffixes

    models = _models(comfyui, model_suffixes(file_formats(plugins)))
    return max(models, key=lambda model: model[1], default=None)


def _models(comfyui: Path, suffixes: Collection[str]) -> Iterator[tuple[str, int]]:
    """Model files by name and size."""
    for kind in MODEL_FOLDERS:
        for folder, _, names in os.walk(comfyui / "models" / kind, followlinks=True):
            for name in names:
                path = Path(folder, name)
                if path.suffix.lower() in suffixes and path.is_file():
                    yield name, path.stat().st_size


def _found(pattern: re.Pattern[str], file: Path) -> str:
    found = pattern.search(file.read_text(encoding="utf-8", errors="replace")) if file.is_file() else None
    return found[1] if found else ""


def _two_numbers(version: str) -> tuple[int, int]:
    numbers = [int(number) for number in re.findall(r"\d+", version)[:2]]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)
