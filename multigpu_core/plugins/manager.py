"""The plugins of one running framework: found, checked, registered, and asked one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy
import structlog

from multigpu.multigpu_core.contract.loaders import OwnNode, WrappedLoader
from multigpu.multigpu_core.contract.unloading import LoadedModelInfo, UnloadReason
from multigpu.multigpu_core.settings.configuration import Configuration, ConfigurationProblem, validated_options

from .discovery import Candidate
from .isolation import Result, Wait, described, printable, run_step, wait_at_most
from .plan_check import check_plan
from .record import BUILT_IN, PluginRecord, TargetPack
from .tracing import HookTrace
from .validation import HookImplementations, PluginError, check_answer, check_plugin

if TYPE_CHECKING:
    from multigpu.multigpu_core.allocation import AllocationPlan, AllocationRequest

log = structlog.get_logger("multigpu")
MAX_ANSWERS = 10_000
"""Of one hook of one plugin: an answer that never ends is cut off there."""
ASKED_AT_START = frozenset(
    {
        "multigpu_wrap_loader",
        "multigpu_device_backends",
        "multigpu_file_formats",
        "multigpu_strategies",
        "multigpu_commands",
    }
)
"""Hooks whose answer has a deadline."""
_MAX_NAME_CHARACTERS = 200


@dataclass(frozen=True)
class _Prepared:
    """A plugin that was imported and checked, and what of it is used from then on."""

    hooks: HookImplementations
    pack: str
    options: Any
    problems: tuple[ConfigurationProblem, ...]


class PluginManager:
    """Registers plugins and calls hooks so that one broken plugin harms no other.

    `records` has one record for each plugin that was found, by name, in the order of finding. Whatever a plugin raises
    takes out that plugin alone; KeyboardInterrupt is the user's and goes through.
    """

    def __init__(
        self, hookspecs: ModuleType, configuration: Configuration | None = None, wait: Wait | None = None
    ) -> None:
        """`wait` waits for each step of a plugin's start-up, for as long as the configuration says by default."""
        self._hookspecs = hookspecs
        self._configuration = configuration or Configuration()
        self._wait = wait or wait_at_most(self._configuration.startup.plugin_seconds)
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._packs: dict[str, str] = {}
        self._trace = HookTrace()
        self.records: dict[str, PluginRecord] = {}
        self.problems: list[ConfigurationProblem] = list(self._configuration.problems)

    def register_all(self, candidates: Iterable[Candidate]) -> None:
        """Import, check and register plugins; one that is switched off is not even imported."""
        for candidate in candidates:
            if candidate.name in self.records:
                self._refuse_second(candidate)
            elif not self._configuration.is_enabled(candidate.name):
                self.records[candidate.name] = PluginRecord(
                    candidate.name, candidate.source, candidate.version, enabled=False, why_not="Switched off."
                )
            else:
                self._register(candidate)

    def register(self, plugin: object, name: str) -> None:
        """Register a plugin object of the host's own."""
        self._register(Candidate(name, BUILT_IN, "", lambda: plugin))

    def loaders(self) -> Iterator[tuple[str, WrappedLoader | OwnNode]]:
        """What every plugin wraps, with the plugin's name; a plugin that raises is reported and left out."""
        for name, loaders in self.ask_each("multigpu_wrap_loader", (WrappedLoader, OwnNode)):
            self.records[name] = replace(self.records[name], names_no_loaders=not loaders)
            for loader in loaders:
                yield name, loader

    def plan_allocation(self, **arguments: Any) -> AllocationPlan:
        """The first plan that a plugin makes, those registered last asked first.

        Raises:
            AllocationError, PlanError, DeviceError: a plugin's refusal, for the user to read. One that fails in any
                other way is reported and left out and the next is asked; only what the last one raises is raised.
        """
        passed_on = _passed_on()
        hook = self._manager.hook.multigpu_plan_allocation
        *others, last_resort = reversed(hook.get_hookimpls())
        for implementation in others:
            name = implementation.plugin_name
            try:
                plan: AllocationPlan | None = self._call(hook.name, name, implementation.plugin, arguments)
                if plan is not None:
                    check_plan(plan, name, arguments["inventory"], arguments["request"], arguments["devices"])
                    return _warned(plan.by_layers, arguments["request"])
            except passed_on:
                raise
            except BaseException as error:
                self.fail(name, error)
        made: AllocationPlan = self._call(hook.name, last_resort.plugin_name, last_resort.plugin, arguments)
        return _warned(made, arguments["request"])

    def kept_models(self, models: Sequence[LoadedModelInfo], reason: UnloadReason, bytes_wanted: int) -> set[int]:
        """Keys of the models that any plugin keeps."""
        answers = self.ask_each(
            "multigpu_unload_policy", (int,), models=models, reason=reason, bytes_wanted=bytes_wanted
        )
        return {int.__index__(key) for _, keys in answers for key in keys}  # not what a subclass makes of it

    def shut_down(self) -> None:
        """Tell every plugin that this is the end, each one whatever the others do."""
        list(self.ask_each("multigpu_shutdown", (object,)))

    def note_nodes(self, plugin: str, nodes: Iterable[str] = (), taken: Iterable[str] = ()) -> None:
        """Enter nodes that a plugin registered, or lost because somebody else has their ids, into its record."""
        record = self.records[plugin]
        lost = (*record.taken, *taken)
        kept = tuple(node for node in (*record.nodes, *nodes) if node not in lost)
        self.records[plugin] = replace(record, nodes=kept, taken=lost)

    def note_targets(self, plugin: str, packs: Iterable[TargetPack], absent: Iterable[str]) -> None:
        """Enter the packs that a plugin is for, and the loaders it knows that are `absent`, into its record."""
        self.records[plugin] = replace(self.records[plugin], targets=tuple(packs), absent=tuple(absent))

    def pack_named_by(self, plugin: str) -> str:
        """The pack that a plugin says it is for, as `multigpu_pack`, or that carries it; empty where neither."""
        return self._packs.get(plugin, "")

    def works(self, plugin: str) -> bool:
        return self.records[plugin].works

    def fail(self, plugin: str, error: BaseException) -> None:
        """Take a plugin out and say so, with its traceback in the log."""
        if self._manager.has_plugin(plugin):
            self._manager.unregister(name=plugin)
        reason, lines = described(error)
        self.records[plugin] = replace(self.records[plugin], why_not=reason, traceback=lines)
        log.error(
            "plugin_failed",
            message=f"The plugin {plugin} failed and is not used; everything else continues to work.\n{lines}",
            plugin=plugin,
            reason=reason,
        )

    def _register(self, candidate: Candidate) -> None:
        begin = time.perf_counter()
        name = candidate.name
        self.records[name] = PluginRecord(name, candidate.source, candidate.version)
        try:
            prepared = self._in_time(name, "Its import", partial(self._prepare, candidate))
            # pluggy leaves a plugin that it refuses half registered; `fail` takes it out again.
            self._manager.register(prepared.hooks, name)
            self._packs[name] = prepared.pack
            self.problems += prepared.problems
            if self._implements("multigpu_startup", prepared.hooks):
                options = {"options": prepared.options}
                startup = partial(self._call, "multigpu_startup", name, prepared.hooks, options)
                self._in_time(name, "multigpu_startup", startup)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # an import may raise anything, CancelledError and SystemExit included
            self.fail(name, error)
        seconds = time.perf_counter() - begin
        self.records[name] = replace(self.records[name], seconds=seconds)

    def _prepare(self, candidate: Candidate) -> _Prepared:
        """Import and check a plugin. Runs on a thread that may be given up: changes nothing of the manager's."""
        plugin = candidate.load()
        hooks = check_plugin(plugin, candidate.name, self._hookspecs)
        pack = str(getattr(plugin, "multigpu_pack", candidate.pack))
        entries = self._configuration.options.get(candidate.name, {})
        options, problems = validated_options(getattr(plugin, "Options", None), entries, candidate.name)
        return _Prepared(hooks, printable(pack, _MAX_NAME_CHARACTERS), options, problems)

    def _in_time(self, plugin: str, what: str, step: Callable[[], Result]) -> Result:
        return run_step(plugin, what, step, self._wait)

    def _refuse_second(self, candidate: Candidate) -> None:
        reason = f"{self.records[candidate.name].source} already has a plugin of that name."
        record = PluginRecord(candidate.name, candidate.source, candidate.version, why_not=reason)
        self.records[f"{candidate.name} of {candidate.source}"] = record
        message = f"The plugin {candidate.name} of {candidate.source} is not used: {reason}"
        log.warning("plugin_left_out", message=message, plugin=candidate.name, reason=reason)

    def _alone(self, hook: str, plugin: object) -> pluggy.HookCaller:
        """A hook as one plugin alone implements it."""
        others = [other for other in self._manager.get_plugins() if other is not plugin]
        return self._manager.subset_hook_caller(hook, others)

    def _implements(self, hook: str, plugin: object) -> bool:
        return any(each.plugin is plugin for each in getattr(self._manager.hook, hook).get_hookimpls())

    def _call(self, hook: str, name: str, plugin: object, arguments: dict[str, Any]) -> Any:
        return self._trace.call(name, hook, arguments, partial(self._alone(hook, plugin), **arguments))

    def ask_each(self, hook: str, kinds: tuple[type, ...], **arguments: Any) -> Iterator[tuple[str, list[Any]]]:
        """Call a hook plugin by plugin, because within one call an exception silences all later ones.

        Each answer is an iterable of things of one of `kinds`; they come as a list, with the plugin's name.
        """
        for name, plugin in self._manager.list_name_plugin():
            if plugin is None or not self._implements(hook, plugin):
                continue
            read = partial(self._answers, hook, kinds, name, plugin, arguments)
            ask = partial(self._trace.call, name, hook, arguments, read)
            try:
                said = self._in_time(name, hook, ask) if hook in ASKED_AT_START else ask()
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                self.fail(name, error)
                continue
            yield name, said

    def _answers(
        self, hook: str, kinds: tuple[type, ...], name: str, plugin: object, arguments: dict[str, Any]
    ) -> list[Any]:
        answers = self._alone(hook, plugin)(**arguments)
        said = list(islice(chain.from_iterable(answers), MAX_ANSWERS + 1))
        if len(said) > MAX_ANSWERS:
            raise PluginError(name, f"{hook} answered with more than {MAX_ANSWERS} things.")
        check_answer(said, kinds, name, hook)
        return said


def _warned(plan: AllocationPlan, request: AllocationRequest) -> AllocationPlan:
    from multigpu.multigpu_core.allocation import warned_if_unmoved  # needs torch, and a list of plugins does not

    return warned_if_unmoved(plan, request)


def _passed_on() -> tuple[type[BaseException], ...]:
    """What a planner raises on purpose, and what the user does.

    Imported here: these rooms need torch, and a list of plugins does not.
    """
    from multigpu.multigpu_core.allocation import AllocationError, PlanError
    from multigpu.multigpu_core.devices import DeviceError

    return KeyboardInterrupt, AllocationError, PlanError, DeviceError
