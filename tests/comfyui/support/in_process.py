"""Node packs and integrations inside the ComfyUI of this process."""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path

from multigpu.multigpu_core.provisioning.in_process import ComfyUI

__all__ = ["ComfyUI", "variants_of"]


def variants_of(comfyui: ComfyUI, pack: Path, integration: str) -> None:
    """Load a node pack as ComfyUI does, and offer the variants that one of our integrations makes of it.

    A pack of the same nodes that an earlier test loaded gives way.
    """
    hookspecs = importlib.import_module("multigpu.hookspecs")
    plugins = importlib.import_module("multigpu.multigpu_core.plugins")
    registration = importlib.import_module("multigpu.multigpu_core.comfy.nodes.registration")
    manager = plugins.PluginManager(hookspecs)
    manager.register(importlib.import_module(f"multigpu.integrations.{integration}"), integration)
    mappings = comfyui.nodes.NODE_CLASS_MAPPINGS
    for _, loader in list(manager.loaders()):
        for node_id in (loader.target, *(variant.node_id for variant in loader.variants)):
            mappings.pop(node_id, None)
    assert asyncio.run(comfyui.nodes.load_custom_node(str(pack), module_parent="custom_nodes")), "the pack is imported"
    made = registration.NodeRegistration(manager, comfyui.framework.context)
    made.register()
    mappings.update(made.classes)
