"""The state of the node packs that plugins are written for: loaded, disabled, failed, or not installed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from multigpu.multigpu_core.comfy.host.comfyui_names import MissingNameError
from multigpu.multigpu_core.comfy.host.compatibility import comfy_nodes, flag, folder_paths
from multigpu.multigpu_core.comfy.host.loader_class import LoaderClass
from multigpu.multigpu_core.plugins import (
    PackState,
    TargetPack,
    is_rival,
    name_of_pack,
    packs_in,
    plain_name,
    version_of_pack,
)

DISABLED = ".disabled"


def loadable_packs() -> Iterator[Path]:
    """The folders of the packs that this ComfyUI loads, or has loaded."""
    for pack in packs_in(_custom_nodes()):
        if not _is_skipped(pack):
            yield pack


def target_of(node: LoaderClass) -> TargetPack:
    """The pack that a registered node class came with."""
    origin = getattr(node, "RELATIVE_PYTHON_MODULE", "")
    if not origin.startswith("custom_nodes."):
        return TargetPack("ComfyUI")
    name = origin.removeprefix("custom_nodes.")
    folder = _loaded_folders().get(name)
    return TargetPack(name, version_of_pack(Path(folder)) if folder else "")


def rivals() -> list[str]:
    """Folders of the existing ComfyUI-MultiGPU, whose node ids are ours too, among the packs that ComfyUI loads."""
    return [pack.name for pack in loadable_packs() if is_rival(pack)]


class PacksHere:
    """All packs in the custom node folders, as they are once ComfyUI has loaded them."""

    def __init__(self) -> None:
        self._packs = {plain_name(name): pack for names, pack in _all_packs() for name in names}

    def named(self, name: str) -> TargetPack:
        """A pack by the name of its folder or of its project."""
        return self._packs.get(plain_name(name), TargetPack(name, state=PackState.ABSENT))


def _all_packs() -> Iterator[tuple[tuple[str, ...], TargetPack]]:
    """Each pack with its names, the disabled ones first: a pack can be there twice."""
    for folder in _custom_nodes():
        # ComfyUI-Manager renames a disabled pack, or moves it, with its version behind an @, to a folder of that name.
        for pack in [*folder.glob(f"*{DISABLED}"), *(folder / DISABLED).glob("*")]:
            name = pack.name.removesuffix(DISABLED).partition("@")[0]
            if name:
                yield (name,), TargetPack(name, version_of_pack(pack), PackState.DISABLED)
    loaded = set(_loaded_folders().values())
    for pack in packs_in(_custom_nodes()):
        state = PackState.DISABLED if _is_skipped(pack) else PackState.FAILED
        if os.path.abspath(pack) in loaded:
            state = PackState.LOADED
        yield (pack.name, name_of_pack(pack)), TargetPack(pack.name, version_of_pack(pack), state)


def _loaded_folders() -> dict[str, str]:
    """The folder of each pack that ComfyUI has imported, by its name; none where this ComfyUI does not say so."""
    return getattr(comfy_nodes, "LOADED_MODULE_DIRS", {})


def _custom_nodes() -> list[Path]:
    """The folders with node packs; none where this ComfyUI does not name them."""
    try:
        return [Path(folder) for folder in folder_paths.get_folder_paths("custom_nodes")]
    except MissingNameError:
        return []


def _is_skipped(pack: Path) -> bool:
    return bool(flag("disable_all_custom_nodes")) and pack.name not in (flag("whitelist_custom_nodes") or ())
