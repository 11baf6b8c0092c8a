"""What the nodes on chosen devices use of ComfyUI beside its device selection: the one file of this room that does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from multigpu.multigpu_core.comfy.host.compatibility import comfy_nodes, declared
from multigpu.multigpu_core.comfy.host.compatibility import model_management as mm
from multigpu.multigpu_core.comfy.host.host import prompt_server

from .libraries.interception import Intercepted
from .libraries.redirection import without_redirection

CUSTOM_NODES = "custom_nodes."

SAMPLING = tuple(
    Intercepted(name.module, name.name, without_redirection)
    for name in (declared("comfy.model_management.load_models_gpu"), declared("comfy.samplers.CFGGuider.sample"))
)
"""Functions that move and sample models of ComfyUI's own."""


def intermediate_device() -> torch.device:
    """Where ComfyUI wants results."""
    device: torch.device = mm.intermediate_device()
    return device


def served_nodes() -> dict[str, type]:
    """ComfyUI's node classes by their ids; what is added is served from the next request on."""
    classes: dict[str, type] = comfy_nodes.NODE_CLASS_MAPPINGS
    return classes


def titles() -> dict[str, str]:
    names: dict[str, str] = comfy_nodes.NODE_DISPLAY_NAME_MAPPINGS
    return names


def origin_of(node: type) -> str:
    """The name under which ComfyUI lists the pack of a node; empty for its own."""
    origin = str(getattr(node, "RELATIVE_PYTHON_MODULE", "") or "")
    return origin.removeprefix(CUSTOM_NODES) if origin.startswith(CUSTOM_NODES) else ""


def pack_path(node: type) -> str:
    """The folder or the single file that a node's pack was loaded from; empty for ComfyUI's own nodes."""
    origin = origin_of(node)
    if not origin:
        return ""
    folder = comfy_nodes.LOADED_MODULE_DIRS.get(origin)
    if folder:
        return str(folder)
    module = sys.modules.get(node.__module__)
    return str(getattr(module, "__file__", None) or "")


def before_validation(handler: Callable[[dict[str, Any]], None]) -> None:
    """Call `handler` with every prompt that ComfyUI is sent, before it looks for the prompt's node classes."""
    running = prompt_server()
    if running is None:
        return

    def handle(data: dict[str, Any]) -> dict[str, Any]:
        prompt = data.get("prompt")
        if isinstance(prompt, Mapping):
            handler(dict(prompt))
        return data

    running.add_on_prompt_handler(handle)
