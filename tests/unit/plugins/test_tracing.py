"""With MULTIGPU_TRACE_PLUGINS=1 each hook call is one log line; without it there is none."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any

import pytest
import structlog

from multigpu import hookimpl, hookspecs
from multigpu.api import LoadedModelInfo, OwnNode, UnloadReason, WrappedLoader, split_and_device
from multigpu.multigpu_core.plugins import Candidate, PluginManager
from multigpu.multigpu_core.plugins.tracing import MAX_CHARACTERS, HookTrace, abbreviated


class Traced:
    @hookimpl
    def multigpu_startup(self) -> None: ...

    @hookimpl
    def multigpu_wrap_loader(self) -> Iterable[WrappedLoader | OwnNode]:
        yield WrappedLoader("Mine", split_and_device("Mine"))

    @hookimpl
    def multigpu_unload_policy(self, models: Any) -> Iterable[int]:
        raise RuntimeError("the disk is full")


def calls_logged() -> list[dict[str, Any]]:
    """What is logged while every hook of one plugin is called."""
    with structlog.testing.capture_logs() as logs:
        manager = PluginManager(hookspecs)
        manager.register_all([Candidate("traced", "a test", "1", Traced)])
        assert [loader.target for _, loader in manager.loaders() if isinstance(loader, WrappedLoader)] == ["Mine"]
        model = LoadedModelInfo(7, "Flux", "cuda:0", 100, is_ours=True, keep_loaded=False)
        manager.kept_models([model] * 50, UnloadReason.EJECT, 12)
    return [dict(entry) for entry in logs if entry["event"] == "plugin_hook"]


def test_every_call_is_logged_with_plugin_arguments_answer_and_duration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTIGPU_TRACE_PLUGINS", "1")
    startup, wrap, policy = calls_logged()
    assert {startup["plugin"], wrap["plugin"], policy["plugin"]} == {"traced"}
    assert startup["call"] == "multigpu_startup(options=None)"
    assert wrap["call"] == "multigpu_wrap_loader()" and "WrappedLoader(target='Mine'" in wrap["answer"]
    assert policy["call"].startswith("multigpu_unload_policy(models=[LoadedModelInfo(key=7, ")
    assert policy["call"].endswith("bytes_wanted=12)") and len(policy["call"]) < 4 * MAX_CHARACTERS
    assert policy["answer"] == "raised RuntimeError: the disk is full"
    assert wrap["message"] == f"traced: multigpu_wrap_loader() -> {wrap['answer']}, {wrap['milliseconds']} ms"


@pytest.mark.parametrize("value", [None, "", "0"])
def test_nothing_is_logged_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("MULTIGPU_TRACE_PLUGINS", raising=False)
    if value is not None:
        monkeypatch.setenv("MULTIGPU_TRACE_PLUGINS", value)
    assert calls_logged() == []


def test_the_duration_is_that_of_the_call() -> None:
    ticks = count(start=5.0, step=0.25)
    trace = HookTrace({"MULTIGPU_TRACE_PLUGINS": "1"}, lambda: next(ticks))
    with structlog.testing.capture_logs() as logs:
        assert trace.call("mine", "multigpu_shutdown", {}, lambda: 3) == 3
    assert logs[0]["milliseconds"] == 250.0


def test_what_cannot_be_printed_harms_nothing() -> None:
    class Unprintable:
        def __repr__(self) -> str:
            raise RuntimeError("no words")

    assert abbreviated("\x1b[2J" * 100).isprintable() and "Unprintable" in abbreviated(Unprintable())
    assert len(abbreviated([Unprintable()] * 1000)) < 2 * MAX_CHARACTERS


def test_a_plugin_whose_wrap_loader_returns_nothing_is_reported_to_name_no_loaders() -> None:
    class Idle:
        @hookimpl
        def multigpu_wrap_loader(self) -> Any:
            return None

    class Planner:
        @hookimpl
        def multigpu_plan_allocation(self) -> Any: ...

    manager = PluginManager(hookspecs)
    manager.register_all([Candidate(kind.__name__, "a test", "1", kind) for kind in (Idle, Planner, Traced)])
    list(manager.loaders())
    assert [name for name, record in manager.records.items() if record.names_no_loaders] == ["Idle"]
