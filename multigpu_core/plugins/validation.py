"""Check a plugin before it is registered, where pluggy itself would accept what can never work."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

PLUGIN_API = 1
"""The version of the hooks in hookspecs.py. It increases when a plugin that was written for the last one may break."""


class PluginError(Exception):
    """A plugin that cannot be used. `plugin` is its name, `reason` one sentence with the way out."""

    def __init__(self, plugin: str, reason: str) -> None:
        self.plugin = plugin
        self.reason = reason
        super().__init__(f"{plugin}: {reason}")


class HookImplementations:
    """A plugin's hook functions, looked up once: pluggy then touches nothing else that the plugin defines."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        vars(self).update(functions)


def check_plugin(plugin: object, name: str, hookspecs: ModuleType) -> HookImplementations:
    """Return a plugin's hooks, unless it is for another API, misspelt, or would never be given what it asks for.

    Raises:
        PluginError: the first thing that is wrong.
    """
    wanted = getattr(plugin, "multigpu_api", PLUGIN_API)
    if wanted != PLUGIN_API:
        newer = isinstance(wanted, int) and wanted > PLUGIN_API
        way_out = "update MultiGPU" if newer else "update the plugin"
        raise PluginError(name, f"It is written for plugin API {wanted!r}, but this is {PLUGIN_API}: {way_out}.")
    if isinstance(plugin, type):
        raise PluginError(name, f"It is the class {plugin.__name__}: offer a module, or an instance of the class.")
    options_model = getattr(plugin, "Options", None)
    if options_model is not None and not hasattr(options_model, "model_validate"):
        raise PluginError(name, "Its Options is not a pydantic model: derive it from pydantic.BaseModel.")
    specs = _hooks(hookspecs, f"{hookspecs.PROJECT}_spec")
    found: dict[str, Callable[..., Any]] = {}
    for attribute, implementation, options in _implementations(plugin, f"{hookspecs.PROJECT}_impl"):
        found[attribute] = implementation
        hook = options.get("specname") or attribute
        if hook in specs:
            _check_kind(name, hook, implementation, options)
            _check_parameters(name, hook, implementation, specs[hook])
        elif not options.get("optionalhook"):
            raise PluginError(name, f"There is no hook {hook}{_did_you_mean(hook, specs)}.")
    if not found:
        way_out = "mark its own functions with @hookimpl from multigpu; classes in it are not searched"
        raise PluginError(name, f"It implements no hook: {way_out}.")
    return HookImplementations(found)


def check_answer(said: Iterable[object], kinds: tuple[type, ...], name: str, hook: str) -> None:
    """Refuse what a hook cannot be answered with.

    Raises:
        PluginError: the first thing that is of none of `kinds`.
    """
    for thing in said:
        if not isinstance(thing, kinds):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise PluginError(name, f"{hook} answered with a {type(thing).__name__}; it takes {expected}.")


def _check_kind(name: str, hook: str, implementation: Callable[..., Any], options: dict[str, Any]) -> None:
    if inspect.iscoroutinefunction(implementation) or inspect.isasyncgenfunction(implementation):
        raise PluginError(name, f"{hook} is async, but hooks are not awaited. Make it a plain function.")
    if options.get("wrapper") or options.get("hookwrapper"):
        raise PluginError(name, f"{hook} is asked plugin by plugin, so a wrapper has nothing to wrap there.")


def _check_parameters(name: str, hook: str, implementation: Callable[..., Any], spec: Callable[..., Any]) -> None:
    offered = list(inspect.signature(spec).parameters)
    for parameter in inspect.signature(implementation).parameters.values():
        if parameter.default is not inspect.Parameter.empty:
            raise PluginError(
                name,
                f"{hook}: the parameter {parameter.name} has a default, so it is never passed. Remove the default.",
            )
        if parameter.name not in offered:
            raise PluginError(
                name,
                f"{hook} has no parameter {parameter.name}{_did_you_mean(parameter.name, offered)}; it offers "
                f"{', '.join(offered) or 'none'}.",
            )


def _implementations(plugin: object, marker: str) -> Iterator[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """Attribute, function and options of everything that is marked as a hook implementation."""
    for attribute in dir(plugin):
        function = inspect.getattr_static(plugin, attribute, None)
        if isinstance(function, (staticmethod, classmethod)):
            function = function.__func__
        options = getattr(function, marker, None)
        if isinstance(options, dict):
            yield attribute, getattr(plugin, attribute), options


def _hooks(module: ModuleType, marker: str) -> dict[str, Callable[..., Any]]:
    return {name: value for name, value in vars(module).items() if hasattr(value, marker)}


def _did_you_mean(word: str, words: Any) -> str:
    nearest = difflib.get_close_matches(word, list(words), n=1)
    return f" (did you mean {nearest[0]}?)" if nearest else ""
