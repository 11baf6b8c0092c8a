"""The plugins of one running framework: what is registered, and what each said when it was asked."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pluggy
import structlog

from .loaders import OwnNode, WrappedLoader
from .unloading import LoadedModelInfo, UnloadReason

log = structlog.get_logger("multigpu")

BUILTIN_INTEGRATIONS = ("comfy_core",)
"""Our own integrations, registered through the same door as everybody's; modules of `multigpu.integrations`."""


@dataclass(frozen=True)
class PluginStatus:
    """One plugin in the report. `failure` is the traceback of what kept it from working, or empty."""

    name: str
    enabled: bool
    failure: str = ""


class PluginManager:
    """Registers plugins and calls hooks so that one broken plugin harms no other."""

    def __init__(self, hookspecs: ModuleType) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._status: dict[str, PluginStatus] = {}

    def report(self) -> tuple[PluginStatus, ...]:
        return tuple(self._status.values())

    def register(self, plugin: object, name: str) -> None:
        """Register a plugin object; a refused one is rolled back whole and reported as failed."""
        try:
            self._manager.register(plugin, name)
            self._manager.check_pending()
        except Exception:
            self._fail(name)
        else:
            self._status[name] = PluginStatus(name, enabled=True)

    def register_integrations(self, switches: Mapping[str, bool]) -> None:
        """Import and register our own integrations; one that is switched off is not even imported."""
        for name in BUILTIN_INTEGRATIONS:
            if not switches.get(name, True):
                self._status[name] = PluginStatus(name, enabled=False)
                continue
            try:
                plugin = importlib.import_module(f"multigpu.integrations.{name}")
            except (Exception, SystemExit):
                self._fail(name)
            else:
                self.register(plugin, name)

    def loaders(self) -> list[tuple[str, WrappedLoader | OwnNode]]:
        """What every plugin wraps, with the plugin's name; a plugin that raises is reported and left out."""
        wrapped: list[tuple[str, WrappedLoader | OwnNode]] = []
        for name, answer in self._ask_each("multigpu_wrap_loader"):
            wrapped += [(name, loader) for loader in answer]
        return wrapped

    def plan_allocation(self, **arguments: Any) -> Any:
        """The first plan that a plugin makes. Planning fails loudly: what a plugin raises goes to the user."""
        return self._manager.hook.multigpu_plan_allocation(**arguments)

    def kept_models(self, models: Sequence[LoadedModelInfo], reason: UnloadReason, bytes_wanted: int) -> set[int]:
        """Keys of the models that any plugin keeps."""
        answers = self._ask_each("multigpu_unload_policy", models=models, reason=reason, bytes_wanted=bytes_wanted)
        return {key for _, keys in answers for key in keys}

    def _ask_each(self, hook: str, **arguments: Any) -> Iterable[tuple[str, list[Any]]]:
        """Call a hook plugin by plugin, because within one call an exception silences all later ones."""
        for name, plugin in self._manager.list_name_plugin():
            others = [other for other in self._manager.get_plugins() if other is not plugin]
            try:
                for answer in self._manager.subset_hook_caller(hook, others)(**arguments):
                    yield name, list(answer)
            except Exception:
                self._fail(name)

    def _fail(self, name: str) -> None:
        failure = traceback.format_exc()
        self._manager.unregister(name=name) if self._manager.has_plugin(name) else None
        self._status[name] = PluginStatus(name, enabled=True, failure=failure)
        log.error(f"The plugin {name} failed and is left out; everything else works on.\n{failure}")
