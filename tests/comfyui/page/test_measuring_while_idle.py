"""Measuring speeds ends when ComfyUI works meanwhile, however short that was."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from multigpu.multigpu_core.devices import Measured

from ..support.in_process import ComfyUI


@dataclass
class Measuring:
    """A measurement of two figures; `meanwhile` happens while the second is measured."""

    queue: Any
    worker: Any
    measurement: Any
    meanwhile: Callable[[], None] = lambda: None
    told: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def profile(self, registry: Any, progress: Callable[[Measured], None]) -> None:
        progress(Measured("one", 1.0, 1, 2))
        self.meanwhile()
        progress(Measured("two", 1.0, 2, 2))
        self.kept.append("a profile")

    def prompt(self) -> None:
        """A prompt comes, runs and ends."""
        self.queue.put((1, "a prompt", {}, {}, [], {}))
        _, item_id = self.queue.get()
        self.queue.task_done(item_id, {}, None)

    def queue_updated(self) -> None:
        pass

    def send_sync(self, event: str, data: dict[str, Any]) -> None:
        self.told.append(data["what"])


@pytest.fixture
def measuring(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> Measuring:
    speeds = importlib.import_module("multigpu.multigpu_core.comfy.page.speeds")
    worker = importlib.import_module("multigpu.multigpu_core.comfy.host.prompt_worker")
    measuring = Measuring(None, None, None)
    measuring.queue = importlib.import_module("execution").PromptQueue(measuring)
    measuring.worker = worker.PromptWorker(measuring.queue)
    measuring.measurement = speeds.SpeedMeasurement(None, measuring, measuring.worker)
    monkeypatch.setattr(speeds, "profile_anew", measuring.profile)
    return measuring


def test_while_nothing_runs_all_is_measured_and_kept(measuring: Measuring) -> None:
    measuring.prompt()
    measuring.measurement.run()
    assert measuring.told == ["one", "two"] and measuring.kept


def test_a_prompt_that_begins_and_ends_within_one_figure_ends_it(measuring: Measuring) -> None:
    measuring.meanwhile = measuring.prompt
    with pytest.raises(RuntimeError, match="A prompt is running"):
        measuring.measurement.run()
    assert measuring.told == ["one"] and not measuring.kept


def test_a_model_that_is_unloaded_within_one_figure_ends_it(measuring: Measuring) -> None:
    def unload() -> None:
        measuring.worker.submit(lambda: None)
        measuring.worker.take_turn(measuring.queue)

    measuring.meanwhile = unload
    with pytest.raises(RuntimeError, match="A prompt is running"):
        measuring.measurement.run()
    assert not measuring.kept


def test_what_waits_keeps_it_from_beginning(measuring: Measuring) -> None:
    measuring.worker.submit(lambda: None)
    with pytest.raises(RuntimeError, match="A prompt is running"):
        measuring.measurement.run()
    assert measuring.told == []
