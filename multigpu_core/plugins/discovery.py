"""Finds plugins: our own, those of installed distributions, and those that other node packs carry."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import importlib_metadata

from multigpu import __version__

from .toml import read_toml

GROUP = "multigpu.integrations"
"""The entry-point group of installed plugins."""
PACK_FILE = "multigpu_plugin.py"
"""The file by which a node pack carries a plugin; its pyproject.toml can name another in [tool.multigpu] plugin."""
BUILT_IN = (
    "comfy_core",
    "gguf",
    "wanvideo",
    "florence2",
    "hunyuan",
    "mmaudio",
    "xflux",
    "pulid",
    "nf4",
    "ltx",
)
"""Our own integrations, registered through the same door as everybody's; modules of `multigpu.integrations`."""


@dataclass(frozen=True)
class Candidate:
    """A plugin that is there but not imported: `load` imports it and returns the plugin object."""

    name: str
    source: str
    version: str
    load: Callable[[], object]


def built_in() -> Iterator[Candidate]:
    for name in BUILT_IN:
        yield Candidate(name, "built in", __version__, _module(f"multigpu.integrations.{name}"))


def installed() -> Iterator[Candidate]:
    """Plugins of installed distributions, by entry point."""
    for entry in importlib_metadata.entry_points(group=GROUP):
        distribution = entry.dist
        yield Candidate(
            entry.name,
            distribution.name if distribution is not None else entry.value,
            distribution.version if distribution is not None else "",
            entry.load,
        )


def carried_by_packs(custom_nodes: Iterable[Path]) -> Iterator[Candidate]:
    """Plugins in the packs under ComfyUI's custom node folders; disabled packs are passed over."""
    for folder in custom_nodes:
        for pack in sorted(folder.iterdir()) if folder.is_dir() else ():
            if pack.is_dir() and not pack.name.endswith(".disabled") and (file := _plugin_file(pack)):
                yield Candidate(pack.name, str(file), _version(pack), _file(file))


def _module(name: str) -> Callable[[], object]:
    return lambda: importlib.import_module(name)


def _file(path: Path) -> Callable[[], object]:
    def load() -> object:
        spec = importlib.util.spec_from_file_location(f"multigpu_plugin_in_{path.parent.name}".replace(".", "_"), path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    return load


def _plugin_file(pack: Path) -> Path | None:
    named = _pyproject(pack, "tool", "multigpu", "plugin")
    file = pack / (named if isinstance(named, str) else PACK_FILE)
    return file if file.is_file() else None


def _version(pack: Path) -> str:
    version = _pyproject(pack, "project", "version")
    return version if isinstance(version, str) else ""


def _pyproject(pack: Path, *keys: str) -> object:
    """A value from a pack's pyproject.toml; None where there is none. Other people's files are not ours to judge."""
    file = pack / "pyproject.toml"
    try:
        value: object = read_toml(file) if file.is_file() else None
    except (ValueError, OSError):
        return None
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
