"""Start the framework inside ComfyUI: devices, plugins, the patches in core, and the nodes."""

from __future__ import annotations

import asyncio
import atexit
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog

import multigpu
from multigpu import hookspecs
from multigpu.multigpu_core.comfy.any_node.creation import SelfLoadingNodes
from multigpu.multigpu_core.comfy.any_node.in_comfyui import before_validation
from multigpu.multigpu_core.comfy.host.comfyui_names import MissingNameError
from multigpu.multigpu_core.comfy.host.compatibility import Feature, folder_paths, missing_features
from multigpu.multigpu_core.comfy.host.core_patches import CorePatches
from multigpu.multigpu_core.comfy.host.devices_in_comfyui import comfyui_registry
from multigpu.multigpu_core.comfy.host.host import Host, prompt_server
from multigpu.multigpu_core.comfy.host.host_memory_watch import HostMemoryWatch, watch_of
from multigpu.multigpu_core.comfy.host.logging_in_comfyui import start_logging
from multigpu.multigpu_core.comfy.host.prompt_worker import PromptWorker
from multigpu.multigpu_core.comfy.memory.retention import RetentionWatch
from multigpu.multigpu_core.comfy.memory.tracked_models import TrackedModels
from multigpu.multigpu_core.comfy.nodes.loading import LoadContext
from multigpu.multigpu_core.comfy.nodes.registration import NodeRegistration
from multigpu.multigpu_core.comfy.packs.pack_nodes import Packs
from multigpu.multigpu_core.comfy.packs.target_packs import loadable_packs
from multigpu.multigpu_core.comfy.page.device_choice import add_device_route
from multigpu.multigpu_core.comfy.page.routes import add_routes
from multigpu.multigpu_core.plugins import (
    Candidate,
    PluginManager,
    built_in,
    built_in_names,
    carried_by_packs,
    installed,
    read_configuration,
    report_lines,
    user_files,
)
from multigpu.multigpu_core.plugins.defaults import DefaultPlanner, KeepWhatNodesKeep
from multigpu.multigpu_core.plugins.extensions import device_backends, file_formats
from multigpu.multigpu_core.plugins.strategies_of_plugins import strategies
from multigpu.multigpu_core.settings.configuration import Configuration

log = structlog.get_logger("multigpu")

SECONDS_BETWEEN_LOOKS = 5.0
SHIPPED_CONFIGURATION = Path(multigpu.__file__).parent / "plugins.toml"


@dataclass(frozen=True)
class Framework:
    """Everything that lives as long as ComfyUI does; there is one, made by `start`."""

    plugins: PluginManager
    context: LoadContext
    patches: CorePatches
    registration: NodeRegistration
    worker: PromptWorker
    any_node: SelfLoadingNodes
    configuration: Configuration

    @property
    def NODE_CLASS_MAPPINGS(self) -> dict[str, type]:  # noqa: N802  # ComfyUI's name
        return self.registration.classes

    @property
    def NODE_DISPLAY_NAME_MAPPINGS(self) -> dict[str, str]:  # noqa: N802  # ComfyUI's name
        return self.registration.titles

    def make_configured_nodes(self) -> None:
        """Make the variants that plugins.toml asks for, once all packs are loaded."""
        reasons = self.any_node.make_configured(self.configuration.devices_of_nodes)
        self.plugins.problems += self.configuration.node_problems(reasons)

    def report(self) -> None:
        """Log what every plugin came to, and what is wrong in the configuration."""
        devices, nodes = self.context.host.registry.names(), len(self.registration.classes)
        plugins = "\n".join(report_lines(self.plugins.records.values()))
        log.info(
            "started",
            message=f"MultiGPU {multigpu.__version__}: {nodes} nodes, devices: {', '.join(devices)}\n{plugins}",
            version=multigpu.__version__,
            nodes=nodes,
            devices=list(devices),
        )
        for problem in self.plugins.problems:
            log.warning("setting_refused", message=str(problem))

    def stop(self) -> None:
        """Take every patch out of ComfyUI and its packs again, and tell the plugins."""
        self.patches.restore()
        self.worker.unwatch()
        self.any_node.restore()
        self.context.packs.restore()
        atexit.unregister(self.plugins.shut_down)
        self.plugins.shut_down()


def start() -> Framework:
    """Start the framework in the running ComfyUI, once.

    Raises:
        UnsupportedComfyUIError: this ComfyUI lacks something without which nothing works.
    """
    user_directory = _user_directory()
    configuration = read_configuration(
        [SHIPPED_CONFIGURATION, *user_files(user_directory, os.environ)], built_in_names()
    )
    start_logging(configuration.logging, user_directory)
    missing = missing_features()
    plugins = PluginManager(hookspecs, configuration)
    plugins.register(DefaultPlanner(configuration.planner.staging), "default_planner")
    plugins.register(KeepWhatNodesKeep(), "keep_what_nodes_keep")
    plugins.register_all(_candidates())
    registry = comfyui_registry(device_backends(plugins), missing)
    known = strategies(plugins)
    host = Host(registry, configuration.planner.strategy, configuration.memory, file_formats(plugins), known)
    plugins.problems += configuration.unknown_strategy(known.names)
    plugins.problems += [*configuration.unknown_plugins(plugins.records), *configuration.idle_options()]
    models = TrackedModels(plugins.kept_models, host.registry)
    context = LoadContext(host, models, plugins.plan_allocation, Packs(host.registry, models), missing)
    worker = PromptWorker(getattr(prompt_server(), "prompt_queue", None))
    worker.watch()
    any_node = SelfLoadingNodes(context, configuration.redirected_packs)

    def release() -> None:
        models.retained.release_all()
        any_node.release()

    patches = CorePatches(
        models.unload_all if Feature.KEEPING not in missing else lambda core_unload_all: core_unload_all(),
        lambda: _empty_caches(context),
        release,
        context.home_of_results,
        worker.take_turn,
        context.may_record,
    )
    patches.install()
    framework = Framework(
        plugins, context, patches, NodeRegistration(plugins, context), worker, any_node, configuration
    )
    framework.registration.register()
    add_routes(context, plugins, worker, any_node.kept)
    add_device_route(any_node, missing)
    if Feature.ANY_NODE not in context.missing:
        before_validation(any_node.make_named)
    atexit.register(plugins.shut_down)
    if not _finish_when_all_packs_are_loaded(framework):
        framework.make_configured_nodes()
        framework.report()
    return framework


def _user_directory() -> Path | None:
    """ComfyUI's folder for what its user sets; None where this ComfyUI does not name it."""
    try:
        return Path(folder_paths.get_user_directory())
    except MissingNameError:
        return None


def _candidates() -> Iterator[Candidate]:
    yield from built_in()
    yield from installed()
    yield from carried_by_packs(loadable_packs())


def _finish_when_all_packs_are_loaded(framework: Framework) -> bool:
    """Make the nodes of packs that ComfyUI loads after us just before it serves the first request.

    Without a server (a script that imports ComfyUI) there is no such moment, and the answer is no.
    """
    running = prompt_server()
    if running is None:
        return False

    async def finish(app: Any) -> None:
        try:
            framework.registration.register_late()
            framework.make_configured_nodes()
            framework.report()
        except Exception:  # what is raised here would end ComfyUI
            log.exception("late_nodes_failed", message="Nodes for packs that were loaded after MultiGPU are missing")

    running.app.on_startup.append(finish)
    running.app.cleanup_ctx.append(partial(_watching, running.prompt_queue, framework.context, framework.worker))
    return True


async def _watching(queue: Any, context: LoadContext, worker: PromptWorker, app: Any) -> AsyncIterator[None]:
    """Watch the host's memory and the retained outputs for as long as the server runs."""
    settings, retained = context.host.memory, context.models.retained
    watches: list[HostMemoryWatch | RetentionWatch | None] = []
    if Feature.HOST_MEMORY not in context.missing:
        watches.append(watch_of(queue, context.host.registry, settings, retained.spare_once))
    if Feature.IDLE_WORK not in context.missing:
        watches.append(RetentionWatch(retained, queue, worker, settings.kept_idle_minutes))
    tasks = [asyncio.create_task(_keep_looking(watch)) for watch in watches if watch is not None]
    yield
    for task in tasks:
        task.cancel()


async def _keep_looking(watch: HostMemoryWatch | RetentionWatch) -> None:
    """Look again and again, until cancelled; one that fails is off, and says so."""
    try:
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            await asyncio.to_thread(watch.look)  # it takes the queue's mutex
    except Exception:
        log.exception("watch_failed", message=f"{type(watch).__name__} is off until ComfyUI restarts")


def _empty_caches(context: LoadContext) -> None:
    """Empty the caches of all devices that hold a part of a split model."""
    used = {device for _, residency in context.models.residencies() for device in residency.bytes_by_device}
    for device in used - {"cpu", context.host.default_device()}:
        context.host.registry.empty_cache(device)
