"""`eject_models` and `keep_loaded`: off by default, and then exactly what they say."""

from __future__ import annotations

import gc
import importlib
import os
import weakref
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import pytest
import torch

from multigpu import hookimpl, hookspecs
from multigpu.hookspecs import LoadedModelInfo, UnloadReason
from multigpu.multigpu_core.plugins import PluginManager

from ..support.in_process import ComfyUI

FLUX = {"unet_name": "flux.safetensors", "weight_dtype": "default"}
SPLIT = {"compute_device": "npu:1", "expert_mode_allocations": "npu:1,60%;npu:2,40%"}


@pytest.fixture
def mm(comfyui: ComfyUI) -> ModuleType:
    import comfy.model_management

    module: ModuleType = comfy.model_management
    return module


def _loaded(comfyui: ComfyUI, node: str = "UNETLoaderDisTorch2MultiGPU", **inputs: Any) -> Any:
    """A model from a node, loaded as a sampler would load it."""
    import comfy.model_management

    (model,) = comfyui.run(node, **FLUX, **inputs)
    comfy.model_management.load_models_gpu([model])
    return model


def _is_loaded(mm: ModuleType, model: Any) -> bool:
    return any(loaded.model is model for loaded in mm.current_loaded_models)


def test_a_kept_split_model_survives_unloading_all_models(comfyui: ComfyUI, mm: ModuleType) -> None:
    kept = _loaded(comfyui, **SPLIT, keep_loaded=True)
    before = comfyui.held_bytes()
    mm.unload_all_models()
    assert _is_loaded(mm, kept)
    assert comfyui.held_bytes() == before and before[1] > 0 < before[2]


def test_a_split_model_goes_with_all_others_by_default(comfyui: ComfyUI, mm: ModuleType) -> None:
    model = _loaded(comfyui, **SPLIT)
    mm.unload_all_models()
    assert not _is_loaded(mm, model)
    assert comfyui.held_bytes() == [0, 0, 0]


def test_a_model_that_is_not_ours_never_survives_because_of_us(comfyui: ComfyUI, mm: ModuleType) -> None:
    kept = _loaded(comfyui, **SPLIT, keep_loaded=True)
    core = _loaded(comfyui, "UNETLoader")
    placed = _loaded(comfyui, "UNETLoaderMultiGPU", device="npu:2")
    mm.unload_all_models()
    assert [_is_loaded(mm, model) for model in (kept, core, placed)] == [True, False, False]
    assert {str(parameter.device) for parameter in core.model.parameters()} == {"cpu"}


def test_after_running_out_of_memory_kept_models_go_too(comfyui: ComfyUI, mm: ModuleType) -> None:
    kept = _loaded(comfyui, **SPLIT, keep_loaded=True)
    try:
        raise torch.OutOfMemoryError("NPU out of memory")
    except torch.OutOfMemoryError:
        mm.unload_all_models()  # as ComfyUI's executor does
    assert not _is_loaded(mm, kept)
    assert comfyui.held_bytes() == [0, 0, 0]


def test_where_everything_is_kept_nothing_happens_at_all(comfyui: ComfyUI, mm: ModuleType) -> None:
    _loaded(comfyui, **SPLIT, keep_loaded=True)
    comfyui.machine.copies.clear()
    mm.unload_all_models()
    assert comfyui.machine.copies.records == ()


def test_a_kept_model_still_makes_way_for_one_that_needs_its_memory(comfyui: ComfyUI, mm: ModuleType) -> None:
    kept = _loaded(comfyui, **SPLIT, keep_loaded=True)
    mm.free_memory(1e30, torch.device("npu:1"))
    assert not _is_loaded(mm, kept)


class NeverUnload:
    """A plugin that keeps every model, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[UnloadReason, int]] = []

    @hookimpl
    def multigpu_unload_policy(
        self, models: Sequence[LoadedModelInfo], reason: UnloadReason, bytes_wanted: int
    ) -> Iterable[int]:
        self.asked.append((reason, bytes_wanted))
        return [model.key for model in models]


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_plugin_decides_what_makes_room_on_a_donor(
    comfyui: ComfyUI, mm: ModuleType, monkeypatch: pytest.MonkeyPatch, is_kept: bool
) -> None:
    plugin = NeverUnload()
    if is_kept:
        plugins = PluginManager(hookspecs)
        plugins.register(plugin, "never unload")
        monkeypatch.setattr(comfyui.framework.context.models, "_policy", plugins.kept_models)
    model = _loaded(comfyui, **SPLIT, keep_loaded=True)
    free = comfyui.framework.context.host.registry.free_bytes("npu:2")
    comfyui.framework.context.models.make_room(free + 1, "npu:2", torch.nn.Module())
    assert _is_loaded(mm, model) is is_kept
    assert plugin.asked == ([(UnloadReason.MEMORY_PRESSURE, free + 1)] if is_kept else [])


def test_unkept_models_are_not_ejected_unless_the_node_asks(comfyui: ComfyUI, mm: ModuleType) -> None:
    first = _loaded(comfyui, "UNETLoaderMultiGPU", device="npu:1")
    _loaded(comfyui, **SPLIT)
    assert _is_loaded(mm, first)


def test_ejecting_empties_the_compute_device_alone_and_before_the_load(comfyui: ComfyUI, mm: ModuleType) -> None:
    on_compute = _loaded(comfyui, "UNETLoaderMultiGPU", device="npu:1")
    on_donor = _loaded(comfyui, "UNETLoaderMultiGPU", device="npu:2")
    core = _loaded(comfyui, "UNETLoader")
    comfyui.run("UNETLoaderDisTorch2MultiGPU", **FLUX, **SPLIT, eject_models=True)
    assert [_is_loaded(mm, model) for model in (on_compute, on_donor, core)] == [False, True, True]


def test_a_kept_model_is_not_ejected(comfyui: ComfyUI, mm: ModuleType) -> None:
    kept = _loaded(comfyui, **SPLIT, keep_loaded=True)
    other = _loaded(comfyui, "UNETLoaderMultiGPU", device="npu:1")
    comfyui.run("UNETLoaderDisTorch2MultiGPU", **FLUX, **SPLIT, eject_models=True)
    assert _is_loaded(mm, kept) and not _is_loaded(mm, other)


def _model_of(comfyui: ComfyUI, **inputs: Any) -> Any:
    return comfyui.run("UNETLoaderDisTorch2MultiGPU", **{**FLUX, **SPLIT, "keep_loaded": True, **inputs})[0].model


def test_a_kept_model_is_the_same_when_its_node_comes_back_after_comfyui_forgot_it(
    comfyui: ComfyUI, mm: ModuleType
) -> None:
    kept = weakref.ref(_model_of(comfyui))
    gc.collect()
    assert kept() is not None and _model_of(comfyui) is kept()


@pytest.mark.parametrize(
    "change", [{"keep_loaded": False}, {"weight_dtype": "fp8_e4m3fn"}], ids=["unkept", "other inputs"]
)
def test_a_kept_model_goes_when_its_node_runs_otherwise(comfyui: ComfyUI, change: dict[str, Any]) -> None:
    kept = weakref.ref(_model_of(comfyui))
    _model_of(comfyui, **change)
    gc.collect()
    assert kept() is None


def test_a_kept_model_goes_when_its_file_changes(comfyui: ComfyUI) -> None:
    kept = weakref.ref(_model_of(comfyui))
    os.utime(comfyui.models / "diffusion_models" / FLUX["unet_name"])
    again = _model_of(comfyui)
    gc.collect()
    assert kept() is None and again is not None


def test_two_nodes_of_one_class_keep_a_model_each(comfyui: ComfyUI) -> None:
    context = importlib.import_module("comfy_execution.utils").CurrentNodeContext
    with context("a prompt", "4"):
        one = _model_of(comfyui)
    with context("a prompt", "5"):
        other = _model_of(comfyui)
    with context("another prompt", "4"):
        assert _model_of(comfyui) is one is not other


@pytest.mark.parametrize("reason", ["out of memory", "free everything"])
def test_nothing_is_kept_when_everything_is_to_go(comfyui: ComfyUI, mm: ModuleType, reason: str) -> None:
    kept = weakref.ref(_model_of(comfyui))
    if reason == "out of memory":
        try:
            raise torch.OutOfMemoryError("NPU out of memory")
        except torch.OutOfMemoryError:
            mm.unload_all_models()
    else:
        importlib.import_module("execution").PromptExecutor(object())  # resets its caches, as /free lets it
    gc.collect()
    assert kept() is None


def test_both_are_off_by_default_in_every_node(comfyui: ComfyUI) -> None:
    for node in comfyui.framework.NODE_CLASS_MAPPINGS.values():
        optional = node.INPUT_TYPES().get("optional", {})
        for name in ("eject_models", "keep_loaded"):
            if name in optional:
                assert optional[name][1]["default"] is False
