"""What keep_loaded keeps ends some time after its node was deleted, and not before."""

from __future__ import annotations

import asyncio
import gc
import importlib
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from ..support.in_process import ComfyUI

NODE = "UNETLoaderDisTorch2MultiGPU"
INPUTS = {
    "unet_name": "flux.safetensors", "weight_dtype": "default", "compute_device": "npu:1",
    "expert_mode_allocations": "npu:1,60%;npu:2,40%", "keep_loaded": True,
}  # fmt: skip
WITH_NODE = {"4": {"class_type": NODE, "inputs": {}}}
OTHER_CLASS = {"4": {"class_type": "EmptyImage", "inputs": {}}}


class _Server:
    prompt_queue: Any = None

    def queue_updated(self) -> None:
        pass


@dataclass
class Server:
    """A ComfyUI of prompts and minutes, with a model that node 4 keeps and ComfyUI's cache has let go of."""

    comfyui: ComfyUI
    idle_minutes: float = 60
    minutes: float = 0
    queue: Any = field(init=False)
    worker: Any = field(init=False)
    kept: Any = field(init=False)
    model: Any = field(init=False)

    def __post_init__(self) -> None:
        outputs = importlib.import_module("multigpu.multigpu_core.comfy.memory.retained_outputs")
        self.queue = importlib.import_module("execution").PromptQueue(_Server())
        self.worker = importlib.import_module("multigpu.multigpu_core.comfy.host.prompt_worker").PromptWorker(
            self.queue
        )
        self.kept = self.comfyui.framework.context.models.retained = outputs.RetainedOutputs(lambda: self.minutes * 60)
        self.runs(WITH_NODE)

    def runs(self, prompt: dict[str, Any], minutes: float = 1.0) -> None:
        """A prompt runs from beginning to end; a node 4 that loads runs in it."""
        self.begins(prompt)
        self.passes(minutes)
        self.ends()

    def begins(self, prompt: dict[str, Any]) -> None:
        number = self.queue.task_counter
        self.queue.put((number, f"prompt {number}", prompt, {}, []))
        self.queue.get()
        if prompt is WITH_NODE:
            with importlib.import_module("comfy_execution.utils").CurrentNodeContext("a prompt", "4"):
                (model,) = self.comfyui.run(NODE, **INPUTS)
            importlib.import_module("comfy.model_management").load_models_gpu([model])
            self.model = weakref.ref(model.model)

    def ends(self) -> None:
        self.queue.task_done(self.queue.task_counter - 1, {}, None)

    def passes(self, minutes: float) -> None:
        """Time passes, and every minute of it the watch looks."""
        watch = _watch(self)
        for minute in range(int(minutes) + 1):
            self.minutes += minute > 0
            watch.look()
            if not self.queue.currently_running:
                self.worker.take_turn(self.queue)

    @property
    def has_model(self) -> bool:
        gc.collect()
        return self.model() is not None


@pytest.fixture
def kept_server(comfyui: ComfyUI) -> Iterator[Server]:
    models = comfyui.framework.context.models
    before = models.retained
    yield Server(comfyui)
    models.retained = before


def test_a_deleted_node_s_model_stays_for_the_next_hour_of_other_prompts(kept_server: Server) -> None:
    for _ in range(4):
        kept_server.runs({})
        kept_server.passes(11)
    assert kept_server.has_model


def test_then_it_is_released_and_the_log_says_how_to_keep_it_longer(
    kept_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    kept_server.runs({})
    kept_server.passes(60)
    assert not kept_server.has_model and len(kept_server.kept) == 0
    assert f"Unloaded the model kept by node 4 ({NODE}): unused for 60 minutes" in caplog.text
    assert "set memory.kept_idle_minutes in plugins.toml" in caplog.text


def test_its_memory_is_free_then_on_every_device(kept_server: Server, comfyui: ComfyUI) -> None:
    assert all(comfyui.held_bytes()[1:])
    kept_server.runs({})
    kept_server.passes(60)
    assert comfyui.held_bytes() == [0, 0, 0]


def test_as_long_as_no_other_prompt_has_run_it_stays_however_long_that_is(kept_server: Server) -> None:
    kept_server.passes(600)
    assert kept_server.has_model
    kept_server.runs({})
    kept_server.passes(58)
    assert kept_server.has_model, "the hour begins when its node is gone"


def test_a_prompt_that_runs_for_hours_with_its_node_uses_it(kept_server: Server) -> None:
    kept_server.begins(WITH_NODE)
    kept_server.passes(200)
    kept_server.ends()
    kept_server.runs({})
    assert kept_server.has_model


def test_nothing_is_released_while_a_prompt_runs(kept_server: Server) -> None:
    kept_server.begins({})
    kept_server.passes(200)
    assert kept_server.has_model
    kept_server.ends()
    kept_server.passes(1)
    assert not kept_server.has_model


def test_a_node_of_another_class_under_its_id_is_another_node(kept_server: Server) -> None:
    kept_server.runs(OTHER_CLASS)
    kept_server.passes(60)
    assert not kept_server.has_model


def test_the_hour_begins_anew_when_the_node_is_back(kept_server: Server) -> None:
    kept_server.runs({})
    kept_server.passes(50)
    before = kept_server.model()
    kept_server.runs(WITH_NODE)
    assert kept_server.model() is before
    del before
    kept_server.runs({})
    kept_server.passes(50)
    assert kept_server.has_model


@pytest.mark.parametrize(("idle_minutes", "stays"), [(0, True), (5, False)])
def test_how_long_is_the_user_s_to_say(kept_server: Server, idle_minutes: float, stays: bool) -> None:
    kept_server.idle_minutes = idle_minutes
    kept_server.runs({})
    kept_server.passes(90)
    assert kept_server.has_model is stays


def test_a_model_is_released_by_the_prompt_worker_and_not_by_who_looks(kept_server: Server) -> None:
    kept_server.runs({})
    kept_server.minutes += 90
    watch = _watch(kept_server)
    for _ in range(3):
        watch.look()
    assert kept_server.has_model
    kept_server.worker.take_turn(kept_server.queue)
    assert not kept_server.has_model and kept_server.worker.begun - kept_server.queue.task_counter == 1


def test_a_prompt_that_comes_before_the_release_keeps_its_model(kept_server: Server) -> None:
    kept_server.runs({})
    kept_server.minutes += 90
    _watch(kept_server).look()
    kept_server.queue.put((99, "prompt 99", WITH_NODE, {}, []))
    kept_server.worker.take_turn(kept_server.queue)
    assert kept_server.has_model


def test_a_release_that_fails_is_raised_where_somebody_looks(
    kept_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_server.runs({})
    kept_server.minutes += 90
    watch = _watch(kept_server)
    watch.look()
    monkeypatch.setattr(kept_server.kept, "release_unwanted", lambda seconds: 1 / 0)
    kept_server.worker.take_turn(kept_server.queue)
    with pytest.raises(ZeroDivisionError):
        watch.look()


def test_the_server_goes_on_while_a_watch_waits_for_the_queue(
    kept_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    startup = importlib.import_module("multigpu.multigpu_core.comfy.startup")
    monkeypatch.setattr(startup, "SECONDS_BETWEEN_LOOKS", 0)
    looks, is_free, waited = threading.Event(), threading.Event(), []

    class Watch:
        def look(self) -> None:
            looks.set()
            waited.append(is_free.wait(30))

    async def serve() -> None:
        watching = asyncio.create_task(startup._keep_looking(Watch()))
        while not looks.is_set():
            await asyncio.sleep(0)
        is_free.set()
        watching.cancel()

    asyncio.run(serve())
    assert waited[:1] == [True]


def _watch(kept_server: Server) -> Any:
    module = importlib.import_module("multigpu.multigpu_core.comfy.memory.retention")
    return module.RetentionWatch(kept_server.kept, kept_server.queue, kept_server.worker, kept_server.idle_minutes)
