"""In a ComfyUI that has changed what we build on, start-up says so, that feature is off, and the rest works."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import reduce
from types import ModuleType
from typing import Any

import pytest
import torch

from multigpu.multigpu_core.comfy.host.comfyui_names import ComfyUIName
from multigpu.multigpu_core.comfy.host.compatibility import NAMES, Feature, UnsupportedComfyUIError, missing_features

from ..support.in_process import ComfyUI
from ..support.outputs import sampled

V1, V3 = "UNETLoader", "FrameInterpolationModelLoader"
VARIANTS = {
    V1: ("UNETLoaderMultiGPU", "UNETLoaderDisTorch2MultiGPU", "UNetLoaderLP"),
    V3: ("FrameInterpolationModelLoaderMultiGPU",),
}
FIRST_OF_ITS_FEATURES = {each.features: each for each in reversed(NAMES) if "." not in each.name}.values()
"""One name for each set of features, of those that are hidden from us alone: a sampling takes a second."""
FREE = ("DeviceSelectorMultiGPU",)
"""Nodes of ours that wrap nothing."""
FLUX = {"unet_name": "flux.safetensors", "weight_dtype": "default"}
SPLIT = {"compute_device": "npu:0", "expert_mode_allocations": "npu:0,50%;npu:1,50%"}


@pytest.fixture
def few_nodes(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> dict[str, type]:
    """What ComfyUI serves, without our nodes: one core loader of each kind."""
    nodes = {node_id: comfyui.nodes.NODE_CLASS_MAPPINGS[node_id] for node_id in (V1, V3)}
    monkeypatch.setattr(comfyui.nodes, "NODE_CLASS_MAPPINGS", nodes)
    return nodes


@contextmanager
def _hidden(name: ComfyUIName) -> Iterator[None]:
    """This ComfyUI without one of its names. What is in a module is hidden from us alone: core nodes go on using it."""
    *path, last = name.name.split(".")
    module = importlib.import_module(name.module)
    with pytest.MonkeyPatch.context() as patched:
        if path:
            patched.delattr(reduce(getattr, path, module), last, raising=not name.is_optional)
        else:
            without = ModuleType(module.__name__)
            vars(without).update({each: value for each, value in vars(module).items() if each != last})
            patched.setitem(sys.modules, name.module, without)
        yield


@contextmanager
def _started() -> Iterator[Any]:
    """Our framework, started once more in this ComfyUI as it is now."""
    framework = importlib.import_module("multigpu.multigpu_core.comfy.startup").start()
    try:
        yield framework
    finally:
        framework.context.models.retained.release_all()
        framework.stop()


def test_nothing_is_missing_in_this_comfyui(comfyui: ComfyUI) -> None:
    assert missing_features() == {}


@pytest.mark.parametrize("name", NAMES, ids=lambda name: f"{name}{' replaced' * name.is_replaced}")
def test_without_one_name_its_features_are_off_and_all_else_works(
    comfyui: ComfyUI, few_nodes: dict[str, type], caplog: pytest.LogCaptureFixture, name: ComfyUIName
) -> None:
    due = [each for each in NAMES if str(each) == str(name) and not each.is_optional and each.is_due]
    of_it = {feature for each in due for feature in each.features}
    with ExitStack() as stopped, ExitStack() as hidden:
        hidden.enter_context(_hidden(name))
        if Feature.EXTENSION in of_it:
            with pytest.raises(UnsupportedComfyUIError, match=f"{name} is gone"):
                stopped.enter_context(_started())
            return
        caplog.clear()
        framework = stopped.enter_context(_started())
        lines = [line for record in caplog.records if "has changed" in (line := record.getMessage())]
        told = importlib.import_module("multigpu.multigpu_core.comfy.trials.jobs").readiness(framework, {})
        assert told["missing"].keys() == {feature.value for feature in of_it}
        assert all(f"{name} is gone" in reason for reason in told["missing"].values())
        assert [[feature.value in line for line in lines].count(True) for feature in of_it] == [1] * len(lines)
        wrapped = [V1] if Feature.V3_LOADERS in of_it else [V1, V3]
        assert framework.NODE_CLASS_MAPPINGS.keys() == {*FREE, *(node for each in wrapped for node in VARIANTS[each])}
        few_nodes.update(framework.NODE_CLASS_MAPPINGS)
        if "." in name.name:
            hidden.close()  # it is hidden from ComfyUI, too, whose own loader runs now
        (whole,) = comfyui.run("UNETLoaderMultiGPU", **FLUX, device="npu:1")
        assert whole.load_device == torch.device("npu:1")
        if Feature.SPLITTING in of_it:
            with pytest.raises(RuntimeError, match=f"{name} is gone.*MultiGPU variant"):
                comfyui.run("UNETLoaderDisTorch2MultiGPU", **FLUX, **SPLIT)
            return
        (split,) = comfyui.run("UNETLoaderDisTorch2MultiGPU", **FLUX, **SPLIT, keep_loaded=True)
        assert len(framework.context.models.retained) == (Feature.KEEPING not in of_it)
        if name in FIRST_OF_ITS_FEATURES:
            assert sampled(comfyui, split).isfinite().all()


def test_whatever_takes_other_arguments_is_named_with_them(comfyui: ComfyUI) -> None:
    def changed(*, something_else: int) -> None: ...

    for name in filter(lambda name: name.parameters, NAMES):
        *path, last = name.name.split(".")
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(reduce(getattr, path, importlib.import_module(name.module)), last, changed)
            assert name.fault == f"{name} takes no {', '.join(name.parameters)}"


def test_where_models_cannot_be_split_the_split_node_says_why_and_all_else_works(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = {Feature.SPLITTING: "comfy.model_patcher.ModelPatcher.partially_load is gone"}
    monkeypatch.setitem(vars(comfyui.framework.context), "missing", faults)
    with pytest.raises(RuntimeError, match=r"partially_load is gone.*MultiGPU variant"):
        comfyui.run("UNETLoaderDisTorch2MultiGPU", **FLUX, **SPLIT)
    (whole,) = comfyui.run("UNETLoader", **FLUX)
    (elsewhere,) = comfyui.run("UNETLoaderMultiGPU", **FLUX, device="npu:1")
    assert torch.equal(sampled(comfyui, elsewhere), sampled(comfyui, whole))


def test_where_auxiliary_models_cannot_be_served_models_still_load_and_sample(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(comfyui.framework.context), "missing", {Feature.AUXILIARY_MODELS: "it is gone"})
    (model,) = comfyui.run("UNETLoaderMultiGPU", **FLUX, device="npu:1")
    (control,) = comfyui.run("ControlNetLoaderMultiGPU", control_net_name="flux.safetensors", device="npu:1")
    assert sampled(comfyui, model).isfinite().all() and "multigpu" not in type(control).__module__


def test_where_no_node_can_be_given_a_device_those_that_have_one_are_used_still(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(comfyui.framework.context), "missing", {Feature.ANY_NODE: "it is gone"})
    with pytest.raises(ValueError, match="SaveImage cannot be given a device: this ComfyUI has changed: it is gone"):
        comfyui.framework.any_node.choice_for("SaveImage")
    assert comfyui.framework.any_node.choice_for("UNETLoader").node_id == "UNETLoaderMultiGPU"
