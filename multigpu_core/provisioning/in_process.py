"""A real ComfyUI inside the test process, on simulated accelerators, with our framework started in it.

One process holds one ComfyUI: its modules have plain names such as `nodes`, and it chooses its devices at import.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from multigpu.multigpu_core.simulation.comfyui_view import appear_to_comfyui
from multigpu.multigpu_core.simulation.machine import GB, SimulatedMachine, simulate

from .server import SIMULATED_ARGUMENTS

SIZES = (4 * GB, 2 * GB, 2 * GB)
CORE_EXTRAS = (
    "nodes_sd3",
    "nodes_hidream",
    "nodes_flux",
    "nodes_lotus",
    "nodes_video_model",
    "nodes_model_advanced",
    "nodes_clip_sdxl",
    "nodes_lt",
    "nodes_model_patch",
    "nodes_upscale_model",
    "nodes_hunyuan",
    "nodes_audio_encoder",
    "nodes_lt_audio",
    "nodes_photomaker",
    "nodes_frame_interpolation",
    "nodes_bg_removal",
    "nodes_multigpu",
)
"""Of the node files that ComfyUI ships beside its core, those that are loaded where this ComfyUI has them."""


@dataclass
class ComfyUI:
    """What tests use of the running ComfyUI. Get it with `start_comfyui`, or as the fixture `simulated_comfyui`."""

    machine: SimulatedMachine
    """Its accelerators: npu:0, on which ComfyUI itself computes, npu:1 and npu:2."""
    nodes: ModuleType
    """ComfyUI's module `nodes`."""
    framework: Any
    """Our framework; its nodes are in `nodes.NODE_CLASS_MAPPINGS`."""
    models: Path
    """The folder under which ComfyUI looks for model files, by kind."""

    def run(self, class_type: str, **inputs: Any) -> tuple[Any, ...]:
        """Run one node, V1 or V3, ours or core's, as ComfyUI's executor calls it."""
        node = self.nodes.NODE_CLASS_MAPPINGS[class_type]
        call = node.execute if hasattr(node, "define_schema") else getattr(node(), node.FUNCTION)
        return finished(call(**inputs))

    def held_bytes(self) -> list[int]:
        """The bytes that each accelerator holds now, in order."""
        gc.collect()
        return [device.live_bytes for device in self.machine.devices]

    def reset(self) -> None:
        """Unload every model, forget the copies so far, and have devices of the usual sizes."""
        mm = importlib.import_module("comfy.model_management")
        self.framework.context.kept.release_all()
        for device in {loaded.device for loaded in mm.current_loaded_models}:
            mm.free_memory(1e30, device)
        gc.collect()
        if [device.total_bytes for device in self.machine.devices] != list(SIZES):
            self.machine.configure(SIZES)
        self.machine.copies.clear()
        self.machine.reset_peaks()


def finished(result: Any) -> tuple[Any, ...]:
    """A node's outputs from whatever it returned: awaited, and out of V3's NodeOutput or a dictionary with ui data."""
    if inspect.isawaitable(result):
        result = asyncio.run(_awaited(result))
    if isinstance(result, dict):
        result = result.get("result", ())
    return tuple(getattr(result, "args", result))


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def start_comfyui(folder: Path, base: Path, sizes: Sequence[int] = SIZES) -> ComfyUI:
    """Import the ComfyUI in `folder` with its core nodes, start our framework, and offer its nodes.

    Models, outputs and inputs are under `base`.

    Raises:
        SimulationUnavailableError: PyTorch is older than 2.10, or ComfyUI is imported already.
    """
    machine = simulate(sizes)
    appear_to_comfyui(machine)
    nodes = import_comfyui(folder, SIMULATED_ARGUMENTS)
    for extra in CORE_EXTRAS:
        asyncio.run(nodes.load_custom_node(str(folder / "comfy_extras" / f"{extra}.py"), module_parent="comfy_extras"))
    _use_folders(base)
    return ComfyUI(machine, nodes, start_framework(nodes), base / "models")


def import_comfyui(folder: Path, arguments: Sequence[str] = ()) -> Any:
    """ComfyUI's module `nodes`, with core's nodes; ComfyUI reads `arguments` as it does on its own command line.

    ComfyUI's folder stays on the import path: much of it is imported when it is first used.
    """
    ours = sys.argv
    sys.path.insert(0, str(folder))
    sys.argv = ["main.py", *arguments]
    try:
        if arguments:
            importlib.import_module("comfy.options").enable_args_parsing()
        importlib.import_module("utils.extra_config")  # as main.py does, before a `utils` of comfy's own hides it
        return importlib.import_module("nodes")
    finally:
        sys.argv = ours


def start_framework(nodes: Any) -> Any:
    """Our framework, started in the ComfyUI that is imported; its nodes are among ComfyUI's."""
    framework = importlib.import_module("multigpu.multigpu_core.comfy.startup").start()
    nodes.NODE_CLASS_MAPPINGS.update(framework.NODE_CLASS_MAPPINGS)
    nodes.NODE_DISPLAY_NAME_MAPPINGS.update(framework.NODE_DISPLAY_NAME_MAPPINGS)
    return framework


def _use_folders(base: Path) -> None:
    folder_paths = importlib.import_module("folder_paths")
    for kind, (_, extensions) in folder_paths.folder_names_and_paths.items():
        folder = base / kind if kind == "custom_nodes" else base / "models" / kind
        folder.mkdir(parents=True, exist_ok=True)
        folder_paths.folder_names_and_paths[kind] = ([str(folder)], extensions)
    for kind in ("input", "output", "temp", "user"):
        (base / kind).mkdir(exist_ok=True)
        getattr(folder_paths, f"set_{kind}_directory")(str(base / kind))
