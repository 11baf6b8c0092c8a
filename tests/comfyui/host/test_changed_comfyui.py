"""In a ComfyUI that has changed what we build on, start-up says so, that feature is off, and the rest works."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ..support.in_process import ComfyUI
from ..support.outputs import sampled

FLUX = {"unet_name": "flux.safetensors", "weight_dtype": "default"}


@pytest.fixture
def compatibility(comfyui: ComfyUI) -> Any:
    return importlib.import_module("multigpu.multigpu_core.comfy.host.compatibility")


def _each(compatibility: Any) -> Iterator[tuple[Any, Any]]:
    for feature, found in compatibility.NAMES.items():
        yield from ((feature, name) for name in found)


def _owner(name: Any) -> tuple[Any, str]:
    *path, last = name.name.split(".")
    owner = importlib.import_module(name.module)
    for part in path:
        owner = getattr(owner, part)
    return owner, last


def test_nothing_is_missing_in_this_comfyui(compatibility: Any) -> None:
    assert compatibility.missing_features() == {}


def test_whatever_is_gone_is_named_in_one_line_with_what_that_costs(
    compatibility: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for feature, name in _each(compatibility):
        caplog.clear()
        with pytest.MonkeyPatch.context() as patched:
            patched.delattr(*_owner(name))
            assert feature in compatibility.missing_features()
        lines = [record.getMessage() for record in caplog.records]
        assert any(f"{name.name} is gone" in line and feature.value in line for line in lines)


def test_whatever_takes_other_arguments_is_named_with_them(compatibility: Any) -> None:
    def changed(*, something_else: int) -> None: ...

    for feature, name in _each(compatibility):
        if name.parameters:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(*_owner(name), changed)
                assert f"{name.name} takes no {', '.join(name.parameters)}" in compatibility.missing_features()[feature]


def test_where_models_cannot_be_split_the_split_node_says_why_and_all_else_works(
    comfyui: ComfyUI, compatibility: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = {compatibility.Feature.SPLITTING: "comfy.model_patcher.ModelPatcher.partially_load is gone"}
    monkeypatch.setitem(vars(comfyui.framework.context), "missing", faults)
    split = {"compute_device": "npu:0", "expert_mode_allocations": "npu:0,50%;npu:1,50%"}
    with pytest.raises(RuntimeError, match=r"partially_load is gone.*MultiGPU variant"):
        comfyui.run("UNETLoaderDisTorch2MultiGPU", **FLUX, **split)
    (whole,) = comfyui.run("UNETLoader", **FLUX)
    (elsewhere,) = comfyui.run("UNETLoaderMultiGPU", **FLUX, device="npu:1")
    assert torch.equal(sampled(comfyui, elsewhere), sampled(comfyui, whole))


def test_where_auxiliary_models_cannot_be_served_models_still_load_and_sample(
    comfyui: ComfyUI, compatibility: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        vars(comfyui.framework.context), "missing", {compatibility.Feature.AUXILIARY_MODELS: "it is gone"}
    )
    (model,) = comfyui.run("UNETLoaderMultiGPU", **FLUX, device="npu:1")
    (control,) = comfyui.run("ControlNetLoaderMultiGPU", control_net_name="flux.safetensors", device="npu:1")
    assert sampled(comfyui, model).isfinite().all() and "multigpu" not in type(control).__module__


def test_where_no_node_can_be_given_a_device_those_that_have_one_are_used_still(
    comfyui: ComfyUI, compatibility: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(comfyui.framework.context), "missing", {compatibility.Feature.ANY_NODE: "it is gone"})
    with pytest.raises(ValueError, match="SaveImage cannot be given a device: this ComfyUI has changed: it is gone"):
        comfyui.framework.any_node.choice_for("SaveImage")
    assert comfyui.framework.any_node.choice_for("UNETLoader").node_id == "UNETLoaderMultiGPU"
