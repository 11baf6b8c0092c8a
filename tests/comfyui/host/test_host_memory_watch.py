"""The watch over the host's memory: when it lets ComfyUI's cached outputs go, and when it leaves them."""

from __future__ import annotations

import asyncio
import importlib
from dataclasses import dataclass, field
from typing import Any

import pytest
from structlog.testing import capture_logs

from multigpu.multigpu_core.settings.core_settings import MemorySettings

from ..support.in_process import ComfyUI


@dataclass
class Machine:
    """A host whose used share of memory, and a ComfyUI whose work, are as a test says."""

    used: float = 0.5
    is_idle: bool = True
    relieved: list[float] = field(default_factory=list)

    def watch(self, settings: MemorySettings | None = None) -> Any:
        module = importlib.import_module("multigpu.multigpu_core.comfy.host.host_memory_watch")
        relieve = lambda: self.relieved.append(self.used)  # noqa: E731
        return module.HostMemoryWatch(settings or MemorySettings(), lambda: self.used, lambda: self.is_idle, relieve)


@pytest.fixture
def machine(comfyui: ComfyUI) -> Machine:
    return Machine()


def test_cached_outputs_go_when_memory_runs_short_and_not_before(machine: Machine) -> None:
    watch = machine.watch()
    for used in (0.5, 0.84, 0.86):
        machine.used = used
        watch.look()
    assert machine.relieved == [0.86]


def test_nothing_is_let_go_while_comfyui_works(machine: Machine) -> None:
    watch = machine.watch()
    machine.used, machine.is_idle = 0.95, False
    assert not watch.look()
    machine.is_idle = True
    assert watch.look()


def test_use_that_stays_high_is_met_once_and_again_only_after_it_was_low(machine: Machine) -> None:
    watch = machine.watch()
    for used in (0.9, 0.95, 0.82, 0.9, 0.79, 0.9):
        machine.used = used
        watch.look()
    assert machine.relieved == [0.9, 0.9]


def test_the_threshold_and_how_far_use_has_to_fall_are_the_user_s(machine: Machine) -> None:
    watch = machine.watch(MemorySettings(host_threshold=0.5, host_hysteresis=0.2))
    for used in (0.6, 0.4, 0.6, 0.2, 0.6):
        machine.used = used
        watch.look()
    assert machine.relieved == [0.6, 0.6]


def test_a_threshold_of_one_watches_nothing(comfyui: ComfyUI) -> None:
    module = importlib.import_module("multigpu.multigpu_core.comfy.host.host_memory_watch")
    registry = comfyui.framework.context.host.registry
    assert module.watch_of(None, registry, MemorySettings(host_threshold=1.0), lambda: None) is None


def test_comfyui_s_worker_resets_the_cache_and_unloads_no_model(comfyui: ComfyUI) -> None:
    module = importlib.import_module("multigpu.multigpu_core.comfy.host.host_memory_watch")
    queue = importlib.import_module("execution").PromptQueue(_Server())
    watch = _watch(module, queue, comfyui)
    assert watch.look()
    assert queue.get_flags() == {"unload_models": False, "free_memory": True}


def test_what_the_user_asked_to_be_freed_is_freed(comfyui: ComfyUI) -> None:
    module = importlib.import_module("multigpu.multigpu_core.comfy.host.host_memory_watch")
    queue = importlib.import_module("execution").PromptQueue(_Server())
    queue.set_flag("unload_models", True)
    watch = _watch(module, queue, comfyui)
    watch.look()
    assert queue.get_flags() == {"unload_models": True}


def _watch(module: Any, queue: Any, comfyui: ComfyUI) -> Any:
    settings = MemorySettings(host_threshold=0.0)
    return module.watch_of(queue, comfyui.framework.context.host.registry, settings, lambda: None)


class _Server:
    prompt_queue: Any = None

    def queue_updated(self) -> None:
        pass


def test_a_watch_that_fails_says_so_and_is_off(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    startup = importlib.import_module("multigpu.multigpu_core.comfy.startup")
    monkeypatch.setattr(startup, "SECONDS_BETWEEN_LOOKS", 0)
    monkeypatch.setattr(machine, "used", None)
    with capture_logs() as events:
        asyncio.run(startup._keep_looking(machine.watch()))
    (told,) = events
    assert told["event"] == "watch_failed" and "HostMemoryWatch is off" in told["message"]
