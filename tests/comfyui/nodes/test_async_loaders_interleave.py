"""Two async loaders at work at once: each sees its own devices and switches, whatever the order of their steps.

ComfyUI runs async nodes on one event loop. Here their steps are taken by hand, in every order.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import itertools
import sys
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch

from multigpu.hookspecs import PackDevices, split_and_device

from ..support.dynamic_vram import switch_on
from ..support.in_process import ComfyUI

STEPS = 3
ORDERS = [
    "".join("A" if index in first else "B" for index in range(2 * STEPS))
    for first in map(set, itertools.combinations(range(2 * STEPS), STEPS))
]
A = ("npu:1", {"compute_device": "npu:1", "expert_mode_allocations": "npu:1,50%;cpu,50%"})
B = ("npu:2", {"device": "npu:2"})
PACK = PackDevices(model_types=("NONE",), device_globals=("device",))


@dataclass(frozen=True)
class World:
    """What loaders read of the process that they run in."""

    comfyui_s_device: str
    current_device: str
    device_of_the_pack: str
    makes_dynamic_patchers: bool
    has_dynamic_vram: bool


@pytest.fixture
def pack(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module of a pack that keeps its device in a global, in a ComfyUI with DynamicVRAM."""
    switch_on(monkeypatch, comfyui.machine)
    module = ModuleType("interleaved_pack")
    module.device = torch.device("npu:0")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    yield module


def _world(pack: ModuleType) -> World:
    mm, patchers = importlib.import_module("comfy.model_management"), importlib.import_module("comfy.model_patcher")
    return World(
        str(mm.get_torch_device()),
        f"npu:{torch.npu.current_device()}",  # type: ignore[attr-defined]
        str(pack.device),
        patchers.CoreModelPatcher is patchers.ModelPatcherDynamic,
        importlib.import_module("comfy.memory_management").aimdo_enabled,
    )


def _seen_by_a_loader_on(device: str, is_split: bool) -> World:
    return World(device, device, device, not is_split, not is_split)


OUTSIDE = World("npu:0", "npu:0", "npu:0", True, True)


class _Turn:
    """Something that a loader waits for: its next step."""

    def __await__(self) -> Iterator[None]:
        yield


def _loader(pack: ModuleType, seen: list[World], error: BaseException | None) -> type:
    io = importlib.import_module("comfy_api.latest").io

    class Loader(io.ComfyNode):  # type: ignore[misc]
        @classmethod
        def define_schema(cls) -> Any:
            return io.Schema(node_id="Interleaved", category="test", inputs=[], outputs=[io.Model.Output()])

        @classmethod
        async def execute(cls) -> Any:
            for _ in range(STEPS - 1):
                seen.append(_world(pack))
                await _Turn()
            seen.append(_world(pack))
            if error is not None:
                raise error
            return io.NodeOutput(None)

    Loader.__module__ = pack.__name__
    return Loader


class Loading:
    """A variant of an async loader, whose runs are taken step by step, each in a context, as asyncio's tasks are."""

    def __init__(self, comfyui: ComfyUI, pack: ModuleType, asked: Any, error: BaseException | None = None) -> None:
        make_variant = importlib.import_module("multigpu.multigpu_core.comfy.nodes.variants").make_variant
        self._device, inputs = asked
        self._is_split = "expert_mode_allocations" in inputs
        self._seen: list[World] = []
        variant = split_and_device("Interleaved")[self._is_split]
        loader = _loader(pack, self._seen, error)
        self._node = make_variant(loader, variant, comfyui.framework.context, PACK)()
        self._inputs = inputs
        self._error = error

    def start(self) -> None:
        self._seen.clear()
        self._coroutine: Coroutine[Any, Any, Any] = self._node.load_async(**self._inputs)
        self._context = contextvars.copy_context()

    def step(self) -> None:
        try:
            self._context.run(self._coroutine.send, None)
        except StopIteration:
            assert self._error is None
        except BaseException as error:
            assert error is self._error

    def cancel(self) -> None:
        self._context.run(self._coroutine.close)

    def saw_its_own(self) -> bool:
        return set(self._seen) <= {_seen_by_a_loader_on(self._device, self._is_split)}

    @property
    def steps(self) -> int:
        return len(self._seen)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt()], ids=repr)
def test_each_sees_its_own_and_all_others_see_comfyui_s(
    comfyui: ComfyUI, pack: ModuleType, error: BaseException | None
) -> None:
    loads = {"A": Loading(comfyui, pack, A, error), "B": Loading(comfyui, pack, B)}
    for order in ORDERS:
        for load in loads.values():
            load.start()
        for name in order:
            loads[name].step()
            assert _world(pack) == OUTSIDE, f"{order}: after a step of {name}"
        assert all(load.saw_its_own() and load.steps == STEPS for load in loads.values()), order


@pytest.mark.parametrize("after", range(STEPS))
def test_one_that_is_cancelled_leaves_the_other_alone(comfyui: ComfyUI, pack: ModuleType, after: int) -> None:
    for cancelled, going_on in ((A, B), (B, A)):
        first, second = Loading(comfyui, pack, cancelled), Loading(comfyui, pack, going_on)
        first.start()
        second.start()
        for _ in range(after):
            first.step()
        second.step()
        first.cancel()
        assert _world(pack) == OUTSIDE
        for _ in range(STEPS - 1):
            second.step()
        assert first.saw_its_own() and second.saw_its_own() and second.steps == STEPS
        assert _world(pack) == OUTSIDE


def test_what_a_loader_does_in_a_thread_is_on_its_device_and_without_dynamic_vram(
    comfyui: ComfyUI, pack: ModuleType
) -> None:
    """A thread has no current device of its loader, and the pack's globals are everybody's."""
    io = importlib.import_module("comfy_api.latest").io
    make_variant = importlib.import_module("multigpu.multigpu_core.comfy.nodes.variants").make_variant
    is_at_work, may_end = threading.Event(), threading.Event()
    inside: list[World] = []

    def load() -> None:
        is_at_work.set()
        assert may_end.wait(30)
        inside.append(_world(pack))

    class Threaded(io.ComfyNode):  # type: ignore[misc]
        @classmethod
        def define_schema(cls) -> Any:
            return io.Schema(node_id="Threaded", category="test", inputs=[], outputs=[io.Model.Output()])

        @classmethod
        async def execute(cls) -> Any:
            await asyncio.to_thread(load)
            return io.NodeOutput(None)

    async def beside_another() -> World:
        node = make_variant(Threaded, split_and_device("Threaded")[1], comfyui.framework.context)
        task = asyncio.create_task(node().load_async(**A[1]))
        await asyncio.to_thread(is_at_work.wait, 30)
        outside = _world(pack)
        may_end.set()
        await task
        return outside

    assert asyncio.run(beside_another()) == OUTSIDE
    assert [(each.comfyui_s_device, each.makes_dynamic_patchers, each.has_dynamic_vram) for each in inside] == [
        ("npu:1", False, False)
    ]


@pytest.mark.parametrize("order", ["AaBb", "ABab", "ABba"])
def test_the_switch_of_dynamic_vram_is_each_context_s_own(comfyui: ComfyUI, pack: ModuleType, order: str) -> None:
    """A capital letter enters, a small one leaves."""
    without = importlib.import_module("multigpu.multigpu_core.comfy.host.dynamic_vram").without_dynamic_vram
    contexts = {name: contextvars.copy_context() for name in "AB"}
    blocks = {name: without() for name in "AB"}
    inside: set[str] = set()
    for letter in order:
        name = letter.upper()
        if letter.isupper():
            contexts[name].run(blocks[name].__enter__)
            inside.add(name)
        else:
            contexts[name].run(blocks[name].__exit__, None, None, None)
            inside.discard(name)
        assert {each for each in "AB" if not contexts[each].run(_world, pack).has_dynamic_vram} == inside
        assert _world(pack) == OUTSIDE


def test_comfyui_s_choice_for_dynamic_vram_can_be_changed_while_the_framework_runs(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ComfyUI's start-up sets the switch, and some packs do."""
    memory = importlib.import_module("comfy.memory_management")
    without = importlib.import_module("multigpu.multigpu_core.comfy.host.dynamic_vram").without_dynamic_vram
    for is_on in (True, False):
        monkeypatch.setattr(memory, "aimdo_enabled", is_on)
        assert memory.aimdo_enabled is is_on is vars(memory)["aimdo_enabled"]
        with without():
            assert memory.aimdo_enabled is False
    monkeypatch.delattr(memory, "aimdo_enabled")
    assert not hasattr(memory, "aimdo_enabled")
