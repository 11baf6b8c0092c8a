"""Backends, formats and commands of plugins: a broken one is left out, and whatever else there is works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from multigpu import hookimpl, hookspecs
from multigpu.api import DeviceBackend, FileFormat, HeaderError, MemoryReading, StoredTensor
from multigpu.multigpu_core.allocation.formats.built_in import BUILT_IN_FORMATS
from multigpu.multigpu_core.allocation.inventory.of_file import inventory_of_file
from multigpu.multigpu_core.cli.app import app
from multigpu.multigpu_core.cli.plugins_here import PluginsHere
from multigpu.multigpu_core.devices import default_registry
from multigpu.multigpu_core.plugins import Candidate, PluginManager, built_in_names
from multigpu.multigpu_core.plugins.extensions import commands, device_backends, file_formats


class Toy(DeviceBackend):
    def __init__(self, kind: Any = "toy", count: Callable[[], int] = lambda: 1) -> None:
        self._kind, self._count = kind, count

    @property
    def type(self) -> str:
        return str(self._kind)

    def count(self) -> int:
        return self._count()

    def memory(self, index: int) -> MemoryReading:
        return MemoryReading(5, 10)

    def marketing_name(self, index: int) -> str:
        return "a toy"


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


def answering(hook: str, answer: Callable[[], Any]) -> object:
    def implementation() -> Any:
        return answer()

    implementation.__name__ = hook
    plugin = type("Plugin", (), {})()
    setattr(plugin, hook, hookimpl(implementation))
    return plugin


def manager_of(hook: str, **answers: Callable[[], Any]) -> PluginManager:
    manager = PluginManager(hookspecs)
    manager.register_all(
        Candidate(name, "a test", "1", lambda answer=answer: answering(hook, answer))
        for name, answer in answers.items()
    )
    return manager


BROKEN_BACKENDS: dict[str, tuple[Callable[[], Any], str]] = {
    "raises": (raising(RuntimeError("no driver")), "no driver"),
    "exits": (raising(SystemExit("bye")), "bye"),
    "no backend": (lambda: ["toy"], "it takes DeviceBackend"),
    "a type of ours": (lambda: [Toy("cuda")], "a device type cuda already"),
    "a type of an earlier plugin": (lambda: [Toy()], "a device type toy already"),
    "no type": (lambda: [Toy("T o y")], "is not a device type"),
    "cannot count": (lambda: [Toy("bad", raising(OSError("no bus")))], "no bus"),
    "exits when counting": (lambda: [Toy("bad", raising(SystemExit("gone")))], "gone"),
}


@pytest.mark.parametrize("kind", BROKEN_BACKENDS)
def test_a_broken_backend_is_left_out_and_others_are_devices(kind: str) -> None:
    answer, reason = BROKEN_BACKENDS[kind]
    plugins = manager_of("multigpu_device_backends", first=lambda: [Toy()], broken=answer, last=lambda: [Toy("other")])
    registry = default_registry(more_backends=device_backends(plugins))
    assert [name for name in registry.names() if name in ("toy:0", "other:0", "bad:0")] == ["toy:0", "other:0"]
    assert registry.info("toy:0").free_bytes == 5
    assert reason in plugins.records["broken"].why_not
    assert plugins.records["first"].works and plugins.records["last"].works


FORMAT = FileFormat(
    "toy", (".toy",), lambda begins: begins.startswith(b"TOY"), lambda path: [StoredTensor("a.0.w", "float16", 6)]
)


def test_a_format_of_a_plugin_is_read_and_built_in_ones_come_first(tmp_path: Path) -> None:
    formats = file_formats(manager_of("multigpu_file_formats", toy=lambda: [FORMAT]))
    assert tuple(formats[: len(BUILT_IN_FORMATS)]) == tuple(BUILT_IN_FORMATS)
    (tmp_path / "model.toy").write_bytes(b"TOY")
    assert inventory_of_file(tmp_path / "model.toy", formats=formats).total_bytes == 6


@pytest.mark.parametrize(
    "broken",
    [
        replace(FORMAT, read_header=raising(ZeroDivisionError("no")), name="bad"),
        replace(FORMAT, read_header=raising(SystemExit("no")), name="bad"),
        replace(FORMAT, recognises=raising(SystemExit("no"))),
        replace(FORMAT, suffixes="toy"),  # type: ignore[arg-type]
    ],
    ids=["raises", "exits", "exits when asked", "suffixes that are none"],
)
def test_a_broken_format_refuses_the_file_and_takes_its_plugin_out_alone(broken: FileFormat, tmp_path: Path) -> None:
    plugins = manager_of("multigpu_file_formats", broken=lambda: [broken], good=lambda: [FORMAT])
    formats = file_formats(plugins)
    (tmp_path / "model.toy").write_bytes(b"TOY")
    if broken.name == "bad":
        with pytest.raises(HeaderError, match=r"the plugin broken cannot read it: \w+: no"):
            inventory_of_file(tmp_path / "model.toy", formats=formats)
    assert inventory_of_file(tmp_path / "model.toy", formats=formats).total_bytes == 6
    assert not plugins.records["broken"].works and plugins.records["good"].works


def test_a_damaged_file_of_a_plugin_s_format_is_the_file_s_fault(tmp_path: Path) -> None:
    picky = replace(FORMAT, read_header=raising(HeaderError(tmp_path, "header", "cut off")))
    plugins = manager_of("multigpu_file_formats", picky=lambda: [picky])
    (tmp_path / "model.toy").write_bytes(b"TOY")
    with pytest.raises(HeaderError, match="cut off"):
        inventory_of_file(tmp_path / "model.toy", formats=file_formats(plugins))
    assert plugins.records["picky"].works


def my_greeting() -> None:
    """Say hello."""
    print("hello")


def plan() -> None: ...


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (raising(SystemExit("bye")), "bye"),
        (lambda: ["plan"], "it takes function"),
        (lambda: [plan], "a command plan already"),
    ],
)
def test_a_broken_plugin_costs_the_command_line_its_own_commands_alone(
    answer: Callable[[], Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins = manager_of("multigpu_commands", broken=answer, good=lambda: [my_greeting])
    assert commands(plugins, {"plan"}) == {"my-greeting": my_greeting}
    assert reason in plugins.records["broken"].why_not
    greeting = manager_of("multigpu_commands", good=lambda: [my_greeting])
    monkeypatch.setattr(PluginsHere, "manager", greeting)
    assert CliRunner().invoke(app, ["my-greeting"]).output == "hello\n"
    assert "Say hello" in CliRunner().invoke(app, ["--help"]).output
    assert CliRunner().invoke(app, ["my-greting"]).exit_code == 2


def test_every_file_among_the_integrations_is_a_plugin_without_another_list() -> None:
    folder = Path(hookspecs.__file__).parent / "integrations"
    assert built_in_names() == tuple(sorted(file.stem for file in folder.glob("[a-z]*.py")))
    assert len(built_in_names()) >= 12
