"""Checks of `multigpu doctor` that look at ComfyUI: versions, what of it we build on, packs, plugins, settings."""

from __future__ import annotations

from collections.abc import Iterator

from multigpu.multigpu_core.cli.without_torch import INSTALL_TORCH, NO_TORCH_HERE

from . import tested_versions as tested
from .finding import Check, Finding, note, problem, warning
from .snapshot import Snapshot

WITHOUT_DYNAMIC_VRAM = ("--disable-dynamic-vram", "--highvram", "--gpu-only", "--novram", "--cpu")
ASK_THE_LOG = "See ComfyUI's log for the reason, in the lines from MultiGPU."


def versions(here: Snapshot) -> Iterator[Finding]:
    if here.python < tested.LEAST_PYTHON:
        least = _dotted(tested.LEAST_PYTHON)
        yield problem(f"Python {_dotted(here.python)} is too old.", f"Use Python {least} or later.")
    if here.torch is None:
        yield problem(NO_TORCH_HERE, INSTALL_TORCH)
    elif here.torch < tested.LEAST_TORCH:
        least = _dotted(tested.LEAST_TORCH)
        yield problem(f"torch {_dotted(here.torch)} is too old.", f"Update torch to {least} or later.")


def comfyui(here: Snapshot) -> Iterator[Finding]:
    if here.comfyui is None:
        yield note("This copy is in no ComfyUI.", "Put it into custom_nodes, or name the folder: --comfyui PATH.")
    elif not here.comfyui_version:
        yield problem(f"{here.comfyui} does not look like a ComfyUI.", "Name the folder that has comfyui_version.py.")
    elif here.comfyui_version not in tested.COMFYUI:
        todo = f"If something fails, try one of {', '.join(tested.COMFYUI)}, in which the tests passed."
        yield note(f"ComfyUI {here.comfyui_version} has not been tested.", todo)


def what_we_build_on(here: Snapshot) -> Iterator[Finding]:
    if here.why_not_inside:
        todo = "Start ComfyUI: if it fails, too, install its requirements.txt and ours into the Python that runs it."
        yield warning(here.why_not_inside, todo)
    if here.inside is None:
        return
    for feature, faults in here.inside.missing.items():
        todo = f"Use one of ComfyUI {', '.join(tested.COMFYUI)}, in which the tests passed; everything else works."
        yield problem(f"Off in this ComfyUI: {feature} ({faults}).", todo)


def comfy_aimdo(here: Snapshot) -> Iterator[Finding]:
    if here.inside is None:
        return
    installed, wanted = here.inside.comfy_aimdo, here.comfy_aimdo_wanted
    if wanted and installed != wanted:
        state = f"comfy-aimdo {installed} is installed" if installed else "comfy-aimdo is not installed"
        todo = f"pip install -r {here.comfyui}/requirements.txt, with the Python that runs ComfyUI."
        yield warning(f"{state}, but this ComfyUI requires {wanted}.", todo)
    elif installed and installed not in tested.COMFY_AIMDO:
        todo = f"Tested: {', '.join(tested.COMFY_AIMDO)}. It matters for models that are not split."
        yield note(f"comfy-aimdo {installed} has not been tested.", todo)


def dynamic_vram(here: Snapshot) -> Iterator[Finding]:
    if here.inside is None or not here.inside.knows_dynamic_vram or not here.inside.comfy_aimdo or here.is_wsl:
        return
    is_off = here.server is not None and any(flag in here.server.arguments for flag in WITHOUT_DYNAMIC_VRAM)
    if here.nvidia_cards and here.torch and here.torch >= tested.LEAST_TORCH_FOR_DYNAMIC_VRAM and not is_off:
        todo = (
            "Nothing: a split model is a plain one, whose weights stay where its split puts them. All other models are "
            "dynamic, and ComfyUI moves their weights as it sees fit."
        )
        yield note("ComfyUI's DynamicVRAM is on here, unless a flag switches it off.", todo)


def packs(here: Snapshot) -> Iterator[Finding]:
    for pack in here.packs:
        known = tested.PACKS[pack.name]
        if pack.version in known or any(pack.commit.startswith(one) for one in known):
            continue
        which = pack.version or pack.commit[:7] or "of unknown version"
        yield note(
            f"{pack.name} {which} has not been tested.", f"If its nodes fail, try a tested one: {', '.join(known)}."
        )


def plugins(here: Snapshot) -> Iterator[Finding]:
    for name, why_not in here.failed_plugins:
        todo = f"Its nodes are missing. Fix it, or switch it off in plugins.toml: [integrations] {name} = false."
        yield problem(f"The plugin {name} cannot be used: {why_not}", todo)


def running(here: Snapshot) -> Iterator[Finding]:
    server = here.server
    if server is None:
        return
    if server.silence:
        yield warning(f"No ComfyUI answers at {server.url} ({server.silence}).", "Start it, or name its address.")
    elif server.plugins is None:
        yield warning(f"The ComfyUI that runs at {server.url} does not have this extension.", ASK_THE_LOG)
    if server.worker_fault:
        what = f"The prompt worker of ComfyUI at {server.url} has died: {server.worker_fault}"
        yield problem(what, "No prompt can run: restart ComfyUI. Its log has the whole traceback.")
    for record in server.plugins or ():
        if record.get("enabled") and record.get("why_not"):
            yield problem(f"The plugin {record['name']} failed at {server.url}: {record['why_not']}", ASK_THE_LOG)
        for pack in record.get("targets", ()):
            if pack.get("state") == "import failed":
                todo = "Fix the pack to get its nodes and ours; see ComfyUI's log for the reason."
                yield warning(f"ComfyUI at {server.url} could not import {pack.get('name')}.", todo)


def other_extension(here: Snapshot) -> Iterator[Finding]:
    for folder in here.rivals:
        what = f"ComfyUI-MultiGPU is also installed, in custom_nodes/{folder}: its nodes have the same ids."
        yield problem(what, "Remove one of the two extensions and restart ComfyUI.")


def settings(here: Snapshot) -> Iterator[Finding]:
    for fault in here.settings_problems:
        yield warning(fault, "Correct the entry. Until then it is ignored, and the value from the lower layer applies.")


CHECKS: tuple[Check, ...] = (
    versions, comfyui, what_we_build_on, comfy_aimdo, dynamic_vram, packs, plugins, running, other_extension, settings,
)  # fmt: skip


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
