"""Core's less common loaders: each gets its variants where this ComfyUI has it, and loads on the chosen device."""

from __future__ import annotations

import importlib
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from multigpu.integrations import comfy_core
from multigpu.multigpu_core.provisioning import tiny_models

from ..support.in_process import ComfyUI
from ..support.packs_at_hand import DEVICES
from ..support.tiny_files import upscaler_weights

CHECKPOINT = {"ckpt_name": "flux.safetensors"}
LOADERS = [*comfy_core.MODELS[6:], *comfy_core.WHOLE, "UpscaleModelLoader", "StyleModelLoader"]


@pytest.mark.parametrize("loader", LOADERS)
def test_a_loader_that_is_there_gets_a_device_after_its_own_inputs(comfyui: ComfyUI, loader: str) -> None:
    mappings = comfyui.nodes.NODE_CLASS_MAPPINGS
    if loader not in mappings:
        assert loader in comfyui.framework.plugins.records["comfy_core"].absent
        return
    theirs = mappings[loader].INPUT_TYPES()
    ours = mappings[f"{loader}MultiGPU"].INPUT_TYPES()
    assert ours["required"] == theirs["required"]
    assert ours["optional"]["device"][0] == DEVICES
    assert tuple(mappings[f"{loader}MultiGPU"].RETURN_TYPES) == tuple(mappings[loader].RETURN_TYPES)


@pytest.mark.parametrize("loader", ["unCLIPCheckpointLoader", "ImageOnlyCheckpointLoader"])
def test_checkpoints_with_an_image_encoder_go_to_the_device_or_are_split(comfyui: ComfyUI, loader: str) -> None:
    outputs = comfyui.run(f"{loader}MultiGPU", device="npu:1", **CHECKPOINT)
    patchers = [getattr(output, "patcher", output) for output in outputs if output is not None]
    assert len(patchers) >= 2 and {str(patcher.load_device) for patcher in patchers} == {"npu:1"}
    shares = {"compute_device": "npu:0", "expert_mode_allocations": "npu:0,50%;npu:1,50%"}
    model, *_ = comfyui.run(f"{loader}DisTorch2MultiGPU", **shares, **CHECKPOINT)
    assert {name for name, size in model.multigpu_placement.draft().bytes_by_device.items() if size} == {
        "npu:0",
        "npu:1",
    }


def test_an_upscale_model_works_on_its_device(comfyui: ComfyUI) -> None:
    tiny_models.write(comfyui.models / "upscale_models" / "tiny.safetensors", upscaler_weights())
    (whole,) = comfyui.run("UpscaleModelLoader", model_name="tiny.safetensors")
    (model,) = comfyui.run("UpscaleModelLoaderMultiGPU", model_name="tiny.safetensors", device="npu:1")
    image = torch.rand(1, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    comfyui.machine.reset_peaks()
    (ours,) = comfyui.run("ImageUpscaleWithModel", upscale_model=model, image=image)
    assert [device.peak_bytes > 0 for device in comfyui.machine.devices] == [False, True, False]
    (theirs,) = comfyui.run("ImageUpscaleWithModel", upscale_model=whole, image=image)
    assert torch.equal(ours.cpu(), theirs.cpu()) and ours.shape == (1, 16, 16, 3)


def test_a_style_model_computes_on_its_device_and_leaves_nothing_there(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    redux = importlib.import_module("comfy.ldm.flux.redux")
    smaller = partial(redux.ReduxImageEncoder, redux_dim=8, txt_in_features=16)
    monkeypatch.setattr(redux, "ReduxImageEncoder", smaller)
    weights = {name: torch.rand_like(value) for name, value in smaller().state_dict().items()}
    tiny_models.write(comfyui.models / "style_models" / "redux.safetensors", weights)
    seen = SimpleNamespace(last_hidden_state=torch.rand(1, 4, 8))
    prompt = [[torch.rand(1, 2, 16), {}]]
    inputs = {"conditioning": prompt, "clip_vision_output": seen, "strength": 1.0, "strength_type": "multiply"}
    (own,) = comfyui.run("StyleModelLoader", style_model_name="redux.safetensors")
    (model,) = comfyui.run("StyleModelLoaderMultiGPU", style_model_name="redux.safetensors", device="npu:1")
    comfyui.machine.reset_peaks()
    (ours,) = comfyui.run("StyleModelApply", style_model=model, **inputs)
    assert [device.peak_bytes > 0 for device in comfyui.machine.devices] == [False, True, False]
    (theirs,) = comfyui.run("StyleModelApply", style_model=own, **inputs)
    assert torch.equal(ours[0][0], theirs[0][0])
    assert comfyui.held_bytes() == [0, 0, 0]
