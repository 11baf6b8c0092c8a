"""Find plugins: our own, those of installed distributions, and those that other node packs carry."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import importlib_metadata

from multigpu import __version__, integrations
from multigpu.multigpu_core.settings.toml import read_toml

from .isolation import printable
from .record import BUILT_IN

GROUP = "multigpu.integrations"
"""The entry-point group of installed plugins."""
PACK_FILE = "multigpu_plugin.py"
"""The file by which a node pack carries a plugin; its pyproject.toml can name another in [tool.multigpu] plugin."""
MAX_CHARACTERS = 300
RIVAL = "comfyui-multigpu"
"""The pack that ours replaces, as `plain_name` writes it: both register the same nodes."""


@dataclass(frozen=True)
class Candidate:
    """A plugin that is there but not imported: `load` imports it and returns the plugin object.

    `pack` is the node pack that carries it, if one does.
    """

    name: str
    source: str
    version: str
    load: Callable[[], object]
    pack: str = ""

    @classmethod
    def found(
        cls, name: object, source: object, version: object, load: Callable[[], object], pack: str = ""
    ) -> Candidate:
        """Return a candidate whose names come from outside: made printable, cut, and never empty."""
        texts = [printable(str(text), MAX_CHARACTERS) for text in (name, source, version)]
        return cls(texts[0] or f"unnamed, of {texts[1]}", texts[1], texts[2], load, pack)


def built_in_names() -> tuple[str, ...]:
    """The names of our own integrations: the modules in the folder integrations."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(integrations.__path__)))


def built_in() -> Iterator[Candidate]:
    for name in built_in_names():
        yield Candidate(name, BUILT_IN, __version__, _module(f"multigpu.integrations.{name}"))


def installed() -> Iterator[Candidate]:
    """Plugins of installed distributions, by entry point. A distribution that cannot be read hides no other."""
    seen: set[str] = set()
    for distribution in importlib_metadata.distributions():
        try:
            if GROUP not in (distribution.read_text("entry_points.txt") or ""):
                continue
            entries = list(distribution.entry_points.select(group=GROUP))
        except Exception as error:
            broken = f"a distribution in {distribution.locate_file('')}"
            yield Candidate.found(broken, broken, "", _raising(error))
            continue
        name, version = _name_and_version(distribution)
        if name not in seen:  # copies further along the import path are not what Python would import
            yield from (Candidate.found(entry.name, name or entry.value, version, entry.load) for entry in entries)
        seen.update({name} - {""})


def carried_by_packs(packs: Iterable[Path]) -> Iterator[Candidate]:
    """Plugins in the folders of node packs."""
    for pack in packs:
        if file := _plugin_file(pack):
            yield Candidate.found(pack.name, str(file), version_of_pack(pack), _file(file), pack.name)


def packs_in(custom_nodes: Iterable[Path]) -> Iterator[Path]:
    """The folders of node packs under ComfyUI's custom node folders, without the disabled ones."""
    for folder in custom_nodes:
        for pack in sorted(folder.iterdir()) if os.path.isdir(folder) else ():
            if os.path.isdir(pack) and not pack.name.startswith((".", "__")) and not pack.name.endswith(".disabled"):
                yield pack


def pack_folders(custom_nodes: Iterable[Path]) -> dict[str, Path]:
    """The folders of node packs by their names, those that their pyproject.toml states included, as `plain_name`s."""
    packs = list(packs_in(custom_nodes))
    return {plain_name(name): pack for pack in packs for name in (name_of_pack(pack), pack.name) if name}


def plain_name(pack: str) -> str:
    """A pack's name without the differences that nobody means: case, and hyphens or underscores."""
    return pack.lower().replace("_", "-")


def is_rival(pack: Path) -> bool:
    """Whether a pack is the one that ours replaces, by the name that it states, else by its folder's."""
    return plain_name(name_of_pack(pack) or pack.name) == RIVAL


def name_of_pack(pack: Path) -> str:
    """The name that a node pack's pyproject.toml states, or nothing."""
    name = _pyproject(pack, "project", "name")
    return name if isinstance(name, str) else ""


def version_of_pack(pack: Path) -> str:
    """The version that a node pack's pyproject.toml states, or nothing."""
    version = _pyproject(pack, "project", "version")
    return version if isinstance(version, str) else ""


def _module(name: str) -> Callable[[], object]:
    return lambda: importlib.import_module(name)


def _raising(error: BaseException) -> Callable[[], object]:
    def load() -> object:
        raise error

    return load


def _name_and_version(distribution: Any) -> tuple[str, str]:
    """Name and version of a distribution, as far as its metadata tell."""
    try:
        return distribution.name or "", distribution.version or ""
    except Exception:  # broken metadata keep no plugin from loading
        return "", ""


def _file(path: Path) -> Callable[[], object]:
    def load() -> object:
        spec = importlib.util.spec_from_file_location(f"multigpu_plugin_in_{path.parent.name}".replace(".", "_"), path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[spec.name]
            raise
        return module

    return load


def _plugin_file(pack: Path) -> Path | None:
    named = _pyproject(pack, "tool", "multigpu", "plugin")
    if isinstance(named, str):
        return pack / named  # also where it is missing: loading it then says so
    return pack / PACK_FILE if os.path.isfile(pack / PACK_FILE) else None


def _pyproject(pack: Path, *keys: str) -> object:
    """A value from a pack's pyproject.toml; None where there is none. Other people's files are not ours to judge."""
    file = pack / "pyproject.toml"
    try:
        value: object = read_toml(file) if os.path.isfile(file) else None
    except (ValueError, OSError):
        return None
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
