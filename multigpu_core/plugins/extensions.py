"""Device backends, file formats and commands of plugins, checked so that a broken one harms no other."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, TypeVar

from .isolation import described
from .manager import PluginManager
from .validation import PluginError

if TYPE_CHECKING:
    from multigpu.multigpu_core.allocation.formats.file_format import FileFormat
    from multigpu.multigpu_core.allocation.formats.stored_tensor import StoredTensor
    from multigpu.multigpu_core.devices import DeviceBackend

Thing = TypeVar("Thing")
Command = Callable[..., None]
_FAMILY = re.compile(r"[a-z][a-z0-9_]*")
_SUFFIX = re.compile(r"\.[a-z0-9_]+")


def device_backends(plugins: PluginManager) -> list[DeviceBackend]:
    """The device backends of all plugins that have a type of their own and can count their devices."""
    from multigpu.multigpu_core.devices import DeviceBackend, default_backends

    taken = {name for backend in default_backends() for name in (backend.type, *backend.aliases)} | {"gpu"}

    def check(plugin: str, backend: DeviceBackend) -> DeviceBackend:
        names = {backend.type, *backend.aliases}
        if not all(_FAMILY.fullmatch(name) for name in names):
            reason = f"{backend.type!r:.80} is not a device type: use small letters and digits, as in npu."
            raise PluginError(plugin, reason)
        if names & taken:
            raise PluginError(plugin, f"There is a device type {min(names & taken)} already: choose another name.")
        backend.count()
        taken.update(names)
        return backend

    return list(checked(plugins, "multigpu_device_backends", DeviceBackend, check))  # type: ignore[type-abstract]


def file_formats(plugins: PluginManager) -> Sequence[FileFormat]:
    """The built-in formats, then those of plugins. A reader that fails takes its plugin out and refuses the file."""
    from multigpu.multigpu_core.allocation.formats.built_in import BUILT_IN_FORMATS
    from multigpu.multigpu_core.allocation.formats.file_format import FileFormat

    def check(plugin: str, found: FileFormat) -> FileFormat:
        if not isinstance(found.suffixes, tuple) or not all(_SUFFIX.fullmatch(each) for each in found.suffixes):
            raise PluginError(plugin, f"FileFormat {found.name!r:.80}: suffixes is a tuple such as ('.gguf',).")
        return _guarded(plugins, plugin, found)

    return (*BUILT_IN_FORMATS, *checked(plugins, "multigpu_file_formats", FileFormat, check))


def commands(plugins: PluginManager, taken: Collection[str]) -> dict[str, Command]:
    """The commands of all plugins by their names; `taken` are the names of our own."""
    found: dict[str, Command] = {}

    def check(plugin: str, command: FunctionType) -> FunctionType:
        name = command.__name__.replace("_", "-")
        if name in taken or name in found:
            raise PluginError(plugin, f"There is a command {name} already: choose another name.")
        found[name] = command
        return command

    list(checked(plugins, "multigpu_commands", FunctionType, check))
    return found


def checked(
    plugins: PluginManager, hook: str, kind: type[Thing], check: Callable[[str, Thing], Thing]
) -> Iterator[Thing]:
    """What plugins answer a hook with, as `check` returns it; a plugin with one wrong answer is left out whole."""
    for plugin, answers in plugins.ask_each(hook, (kind,)):
        try:
            checked = [check(plugin, answer) for answer in answers]
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin's objects may raise anything, SystemExit included
            plugins.fail(plugin, error)
            continue
        yield from checked


def _guarded(plugins: PluginManager, plugin: str, found: FileFormat) -> FileFormat:
    from multigpu.multigpu_core.allocation.formats.header_error import HeaderError

    def recognises(begins: bytes) -> bool:
        try:
            return plugins.works(plugin) and bool(found.recognises(begins))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            plugins.fail(plugin, error)
            return False

    def read_header(path: Path) -> Sequence[StoredTensor]:
        try:
            return found.read_header(path)
        except (KeyboardInterrupt, HeaderError, OSError):
            raise
        except BaseException as error:
            plugins.fail(plugin, error)
            reason = f"the plugin {plugin} cannot read it: {described(error)[0]}"
            raise HeaderError(path, found.name, reason) from None

    return replace(found, recognises=recognises, read_header=read_header)
