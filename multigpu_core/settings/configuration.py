"""plugins.toml: which plugins are on, their options, and a few settings of the core.

The shipped file is overridden by the user's, entry by entry, and that by the file that MULTIGPU_PLUGINS names. What is
wrong in a file costs that entry alone: it is reported with file, key and line, and the value beneath it stands.
"""

from __future__ import annotations

import difflib
import os
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from .core_settings import (
    NODES,
    OPEN_SECTIONS,
    REDIRECT,
    SECTIONS,
    LoggingSettings,
    MemorySettings,
    PlannerSettings,
    StartupSettings,
)
from .toml import read_toml_with_lines

ENVIRONMENT_VARIABLE = "MULTIGPU_PLUGINS"
DEFAULT = "default"
"""The key in [integrations] for every plugin of other people that has no entry of its own."""
ENABLED = "enabled"
"""The key in [integrations.NAME] that does what NAME = true or false does in [integrations]."""


@dataclass(frozen=True)
class Entry:
    """A value and where it stands."""

    value: Any
    file: Path
    line: int


@dataclass(frozen=True)
class ConfigurationProblem:
    """What is wrong with one entry, and what would be right."""

    file: Path
    line: int
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.key}: {self.reason} Fix this, then restart ComfyUI."


@dataclass(frozen=True)
class Configuration:
    """The entries that are in force, and the problems of those that are not."""

    switches: Mapping[str, Entry] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Entry]] = field(default_factory=dict)
    core: Mapping[tuple[str, str], Entry] = field(default_factory=dict)
    problems: tuple[ConfigurationProblem, ...] = ()
    built_in: frozenset[str] = frozenset()
    """The plugins that come with MultiGPU. The entry `default` is about all others."""

    def is_enabled(self, plugin: str) -> bool:
        """Whether a plugin is on: by its own entry, else by `default` unless it is built in, else yes."""
        entry = self.switches.get(plugin) or (None if plugin in self.built_in else self.switches.get(DEFAULT))
        return True if entry is None else bool(entry.value)

    @property
    def planner(self) -> PlannerSettings:
        return PlannerSettings(**self._values("planner"))

    @property
    def memory(self) -> MemorySettings:
        return MemorySettings(**self._values("memory"))

    @property
    def startup(self) -> StartupSettings:
        return StartupSettings(**self._values("startup"))

    @property
    def logging(self) -> LoggingSettings:
        return LoggingSettings(**self._values("logging"))

    @property
    def devices_of_nodes(self) -> dict[str, str]:
        """The device that the variant of a node offers first, by node id."""
        return self._values(NODES)

    @property
    def redirected_packs(self) -> list[str]:
        """The packs whose calls that name the first device are redirected."""
        return [pack for pack, is_on in self._values(REDIRECT).items() if is_on]

    def node_problems(self, reasons: Mapping[str, str]) -> Iterator[ConfigurationProblem]:
        """Entries of [nodes] that could not be carried out, given why by node id."""
        for node_id, reason in reasons.items():
            entry = self.core[NODES, node_id]
            yield ConfigurationProblem(entry.file, entry.line, f"{NODES}.{node_id}", reason)

    def unknown_plugins(self, known: Iterable[str]) -> Iterator[ConfigurationProblem]:
        """Entries for plugins that nobody has."""
        names = list(known)
        first_options = {name: next(iter(options.values())) for name, options in self.options.items()}
        for name, entry in {**first_options, **self.switches}.items():
            if name != DEFAULT and name not in names:
                yield ConfigurationProblem(
                    entry.file, entry.line, f"integrations.{name}", f"There is no such plugin{_nearest(name, names)}."
                )

    def unknown_strategy(self, known: Sequence[str]) -> Iterator[ConfigurationProblem]:
        """The entry planner.strategy, where it names none of the strategies that there are."""
        entry = self.core.get(("planner", "strategy"))
        if entry is not None and entry.value not in known:
            names = ", ".join(known)
            reason = f"There is no strategy {_shown(entry.value)}: it is one of {names}{_nearest(entry.value, known)}."
            yield ConfigurationProblem(entry.file, entry.line, "planner.strategy", reason)

    def idle_options(self) -> Iterator[ConfigurationProblem]:
        """Options of plugins that are switched off."""
        for name, options in self.options.items():
            if not self.is_enabled(name):
                for key, entry in options.items():
                    reason = "It has no effect while the plugin is switched off."
                    yield ConfigurationProblem(entry.file, entry.line, f"integrations.{name}.{key}", reason)

    def _values(self, section: str) -> dict[str, Any]:
        return {key: entry.value for (of, key), entry in self.core.items() if of == section}


def user_files(user_directory: Path | None, environ: Mapping[str, str] = os.environ) -> list[Path]:
    """The files that override the shipped one, weakest first, as far as they exist; one that was named must."""
    own = [user_directory / "multigpu" / "plugins.toml"] if user_directory is not None else []
    # Unlike Path.expanduser, this leaves a ~ alone where there is no home folder.
    named = [Path(os.path.expanduser(environ[ENVIRONMENT_VARIABLE]))] if environ.get(ENVIRONMENT_VARIABLE) else []
    return [file for file in own if os.path.isfile(file)] + named  # unlike Path.is_file it never raises


def read_configuration(files: Iterable[Path], built_in: Iterable[str] = ()) -> Configuration:
    """Read files, weakest first. Never raises for what stands in them: see `problems`."""
    switches: dict[str, Entry] = {}
    options: dict[str, dict[str, Entry]] = {}
    core: dict[tuple[str, str], Entry] = {}
    problems: list[ConfigurationProblem] = []
    for file in files:
        try:
            contents, lines = read_toml_with_lines(file)
        except (OSError, ValueError) as error:
            place = re.search(r"at line (\d+)", str(error))
            line = int(place[1]) if place else 1
            problems.append(ConfigurationProblem(file, line, "the whole file", f"It cannot be read: {error}."))
            continue
        for path, entry in _entries(contents, file, lines):
            reason = _fault(path, entry.value)
            if reason:
                problems.append(ConfigurationProblem(file, entry.line, ".".join(path), reason))
            elif path[0] != "integrations":
                core[path[0], path[1]] = entry
            elif len(path) == 2 or path[2] == ENABLED:
                switches[path[1]] = entry
            else:
                options.setdefault(path[1], {})[path[2]] = entry
    return Configuration(switches, options, core, tuple(problems), frozenset(built_in))


def validated_options(
    model: type[BaseModel] | None, entries: Mapping[str, Entry], plugin: str
) -> tuple[BaseModel | None, tuple[ConfigurationProblem, ...]]:
    """A plugin's options by the model that it declares, if any; an entry that does not fit falls back to its default.

    Raises:
        ValidationError: the model cannot even be made of its defaults; that is the plugin's fault.
    """
    kept: dict[str, Any] = {}
    problems = []
    # What the model cannot be made without comes first: until it is there, nothing else can be judged.
    for key, entry in sorted(entries.items(), key=lambda item: not _is_required(model, item[0])):
        if reason := _fault_of_option(model, key, entry.value, kept):
            problems.append(ConfigurationProblem(entry.file, entry.line, f"integrations.{plugin}.{key}", reason))
        else:
            kept[key] = entry.value
    return (model.model_validate(kept) if model is not None else None), tuple(problems)


def _fault_of_option(model: type[BaseModel] | None, key: str, value: Any, others: Mapping[str, Any]) -> str:
    """What is wrong with one option, given the `others` that are right, or nothing."""
    if model is None:
        return "This plugin has no options."
    if key not in model.model_fields:
        return f"There is no such option{_nearest(key, model.model_fields)}."
    try:
        model.model_validate({**others, key: value}, strict=True)
    except ValidationError as error:
        faults = [detail["msg"] for detail in error.errors() if not detail["loc"] or detail["loc"][0] == key]
        return f"{'; '.join(faults)}." if faults else ""  # another option that is still missing is not its fault
    return ""


def _is_required(model: type[BaseModel] | None, key: str) -> bool:
    return model is not None and key in model.model_fields and model.model_fields[key].is_required()


def _entries(
    contents: Mapping[str, Any], file: Path, lines: Mapping[tuple[str, ...], int]
) -> Iterator[tuple[tuple[str, ...], Entry]]:
    """Every entry by its path: section and key, and for a plugin's table the option."""
    for section, table in contents.items():
        if not isinstance(table, dict):
            yield (section,), Entry(table, file, lines.get((section,), 1))
            continue
        for key, value in table.items():
            if section == "integrations" and isinstance(value, dict):
                for option, option_value in value.items():
                    path = (section, key, option)
                    yield path, Entry(option_value, file, lines.get(path, lines.get(path[:2], 1)))
            else:
                yield (section, key), Entry(value, file, lines.get((section, key), lines.get((section,), 1)))


def _fault(path: tuple[str, ...], value: Any) -> str:
    """What is wrong with an entry, or nothing. A plugin's own options are judged by the plugin's model."""
    if _exceeds_64_bits(value):
        return "It contains a number of more than 64 bits."
    sections = ("integrations", *SECTIONS, *OPEN_SECTIONS)
    if path[0] not in sections:
        return f"There is no such section{_nearest(path[0], sections)}."
    if len(path) == 1:
        return f"This is a section: write [{path[0]}] and its keys below."
    if path[0] == "integrations":
        is_switch = len(path) == 2 or path[2] == ENABLED
        return f"Use true or false, not {_shown(value)}." if is_switch and not isinstance(value, bool) else ""
    if path[0] in OPEN_SECTIONS:
        kind, example = OPEN_SECTIONS[path[0]]
        return "" if isinstance(value, kind) else f"Use {example}, not {_shown(value)}."
    return _fault_of_setting(SECTIONS[path[0]], path[1], value)


def _fault_of_setting(section: type[BaseModel], key: str, value: Any) -> str:
    fields = section.model_fields
    if key not in fields:
        return f"There is no such key{_nearest(key, fields)}."
    try:
        section.model_validate({key: value})
    except ValidationError as error:
        choices = [str(choice) for choice in get_args(fields[key].annotation)]
        meant = _nearest(value, choices) if isinstance(value, str) else ""
        return f"{error.errors()[0]['msg']}, not {_shown(value)}{meant}."
    return ""


def _shown(value: Any) -> str:
    """A value for a message: long ones are cut."""
    return reprlib.repr(value)


def _exceeds_64_bits(value: Any) -> bool:
    """Whether there is a number in `value` that TOML does not have, and that Python may refuse to print."""
    if isinstance(value, dict):
        return any(map(_exceeds_64_bits, value.values()))
    if isinstance(value, list):
        return any(map(_exceeds_64_bits, value))
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def _nearest(word: str, words: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(word, list(words), n=1)
    return f" (did you mean {nearest[0]}?)" if nearest else ""
