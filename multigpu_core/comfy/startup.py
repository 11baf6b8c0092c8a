"""Starts the framework inside ComfyUI: devices, plugins, the patches in core, and the nodes."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nodes as comfy_nodes
import structlog

import multigpu
from multigpu import hookspecs
from multigpu.multigpu_core.logs import configure_logging
from multigpu.multigpu_core.plugins import Configuration, OwnNode, PluginManager, WrappedLoader, read_configuration
from multigpu.multigpu_core.plugins.defaults import DefaultPlanner, KeepWhatNodesKeep

from .core_patches import CorePatches
from .devices_in_comfyui import comfyui_registry
from .host import Host
from .loading import LoadContext
from .ours import OurModels
from .routes import add_routes
from .variants import make_own_node, make_variant

log = structlog.get_logger("multigpu")

CONFIGURATION = Path(multigpu.__file__).parent / "plugins.toml"


@dataclass
class Framework:
    """Everything that lives as long as ComfyUI does; there is one, made by `start`."""

    plugins: PluginManager
    context: LoadContext
    patches: CorePatches
    NODE_CLASS_MAPPINGS: dict[str, type] = field(default_factory=dict)
    NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = field(default_factory=dict)

    def register_nodes(self) -> None:
        """Make the nodes of every loader that is installed. Ids that somebody else has are left to them."""
        for plugin, loader in self.plugins.loaders():
            try:
                self._register(loader)
            except Exception:  # a loader class can fail in any way; the others still get their nodes
                log.error(f"{plugin}: no nodes for {loader!r}\n{traceback.format_exc()}")

    def stop(self) -> None:
        """Take every patch out of ComfyUI again."""
        self.patches.restore()

    def _register(self, loader: WrappedLoader | OwnNode) -> None:
        if isinstance(loader, OwnNode):
            self._add(loader.node_id, loader.title, make_own_node(loader, self.context))
            return
        wrapped = comfy_nodes.NODE_CLASS_MAPPINGS.get(loader.target)
        if wrapped is None:
            log.info(f"{loader.target} is not in this ComfyUI: no MultiGPU variants of it")
            return
        title = comfy_nodes.NODE_DISPLAY_NAME_MAPPINGS.get(loader.target, loader.target)
        for variant in loader.variants:
            self._add(
                variant.node_id, f"{title} ({variant.title_suffix})", make_variant(wrapped, variant, self.context)
            )

    def _add(self, node_id: str, title: str, node: type) -> None:
        if node_id in comfy_nodes.NODE_CLASS_MAPPINGS or node_id in self.NODE_CLASS_MAPPINGS:
            log.warning(f"A node {node_id} is there already, from another extension: ours is left out")
            return
        self.NODE_CLASS_MAPPINGS[node_id] = node
        self.NODE_DISPLAY_NAME_MAPPINGS[node_id] = title


def start() -> Framework:
    """Start the framework in the running ComfyUI, once."""
    configure_logging()
    host = Host(comfyui_registry())
    plugins = PluginManager(hookspecs)
    plugins.register(DefaultPlanner(), "default_planner")
    plugins.register(KeepWhatNodesKeep(), "keep_what_nodes_keep")
    plugins.register_integrations(_configuration().integrations)
    models = OurModels(plugins.kept_models, host.registry)
    context = LoadContext(host, models, _plan_with(plugins))
    patches = CorePatches(models.unload_all, lambda: _empty_caches(context))
    patches.install()
    framework = Framework(plugins, context, patches)
    framework.register_nodes()
    add_routes(models)
    log.info(
        f"MultiGPU {multigpu.__version__}: {len(framework.NODE_CLASS_MAPPINGS)} nodes, devices: "
        f"{', '.join(host.registry.names())}"
    )
    return framework


def _configuration() -> Configuration:
    try:
        return read_configuration(CONFIGURATION)
    except ValueError as error:  # a broken file must not keep ComfyUI from starting
        log.error(f"{CONFIGURATION} is not used, every integration is on: {error}")
        return Configuration()


def _plan_with(plugins: PluginManager) -> Any:
    def plan(inventory: Any, request: Any, devices: Any, reserve_bytes: Any) -> Any:
        return plugins.plan_allocation(
            inventory=inventory, request=request, devices=devices, reserve_bytes=reserve_bytes
        )

    return plan


def _empty_caches(context: LoadContext) -> None:
    """Empty the caches of all devices that hold a part of a split model."""
    used = {device for _, residency in context.models.residencies() for device in residency.bytes_by_device}
    for device in used - {"cpu", context.host.default_device()}:
        context.host.registry.empty_cache(device)
