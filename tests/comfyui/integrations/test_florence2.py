"""ComfyUI-Florence2: its model runs on the device of its loader and waits on the offload device."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ..support.in_process import ComfyUI, variants_of
from ..support.packs_at_hand import assert_like_old_node, assert_no_drift, stand_in

LOADERS = ("Florence2ModelLoader", "DownloadAndLoadFlorence2Model")
MODEL = {"model": "made up", "precision": "fp32", "attention": "sdpa"}
IMAGE = torch.ones(1, 8)


@pytest.fixture(scope="module", autouse=True)
def pack(started_comfyui: ComfyUI) -> None:
    variants_of(started_comfyui, stand_in("florence2"), "florence2")


def _run(comfyui: ComfyUI, model: Any, **inputs: Any) -> tuple[str, str]:
    """Where the model computed, and where it was afterwards."""
    inputs = {"text_input": "", "task": "caption", "fill_mask": True, **inputs}
    _, _, computed_on, waits_on = comfyui.run("Florence2Run", image=IMAGE, florence2_model=model, **inputs)
    return computed_on, waits_on


@pytest.mark.parametrize("loader", LOADERS)
def test_every_node_of_old_workflows_is_there_with_its_inputs_in_order(comfyui: ComfyUI, loader: str) -> None:
    assert_like_old_node(comfyui, f"{loader}MultiGPU")


@pytest.mark.parametrize("loader", LOADERS)
def test_the_model_runs_on_its_device_and_waits_on_the_offload_device(comfyui: ComfyUI, loader: str) -> None:
    (model,) = comfyui.run(f"{loader}MultiGPU", device="npu:1", offload_device="npu:2", **MODEL)
    assert str(model["model"].weight.device) == "npu:2"
    assert _run(comfyui, model) == ("npu:1", "npu:2")
    assert _run(comfyui, model, keep_model_loaded=True) == ("npu:1", "npu:1")


def test_a_model_whose_loader_is_asked_for_no_device_stays_comfyui_s(comfyui: ComfyUI) -> None:
    (model,) = comfyui.run("Florence2ModelLoader", **MODEL)
    assert _run(comfyui, model) == ("npu:0", "cpu")


def test_a_copy_of_the_dict_is_still_the_same_model(comfyui: ComfyUI) -> None:
    (model,) = comfyui.run("Florence2ModelLoaderMultiGPU", device="npu:1", offload_device="cpu", **MODEL)
    assert _run(comfyui, {**model, "extra": 1}) == ("npu:1", "cpu")


def test_two_models_run_on_two_devices_in_turn(comfyui: ComfyUI) -> None:
    models = [
        comfyui.run("Florence2ModelLoaderMultiGPU", device=device, offload_device="cpu", **MODEL)[0]
        for device in ("npu:1", "npu:2")
    ]
    assert [_run(comfyui, model)[0] for model in (*models, *models)] == ["npu:1", "npu:2"] * 2


def test_a_loader_that_fails_leaves_comfyui_s_devices_as_they_were(comfyui: ComfyUI) -> None:
    with pytest.raises(ValueError, match="a broken file"):
        comfyui.run(
            "Florence2ModelLoaderMultiGPU", device="npu:1", offload_device="npu:2", **{**MODEL, "model": "broken"}
        )
    (model,) = comfyui.run("Florence2ModelLoader", **MODEL)
    assert _run(comfyui, model) == ("npu:0", "cpu")


def test_the_stand_in_is_like_the_real_pack(comfyui: ComfyUI) -> None:
    assert_no_drift(comfyui, "florence2", "ComfyUI-Florence2")
