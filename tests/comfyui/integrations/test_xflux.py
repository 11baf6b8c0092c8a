"""x-flux-comfyui: its ControlNet on a device, its other nodes on the device of the Flux model."""

from __future__ import annotations

import pytest
import torch

from ..support.in_process import ComfyUI, variants_of
from ..support.packs_at_hand import assert_like_old_node, assert_no_drift, stand_in
from ..support.split_models import THIRDS

CONTROL_NET = {"model_name": "flux-dev", "controlnet_path": "made up"}
FLUX = {"unet_name": "flux.safetensors", "weight_dtype": "default"}
IMAGE = torch.ones(1, 8)


@pytest.fixture(scope="module", autouse=True)
def pack(started_comfyui: ComfyUI) -> None:
    variants_of(started_comfyui, stand_in("xflux"), "xflux")


def test_the_node_of_old_workflows_is_there_with_its_inputs_in_order(comfyui: ComfyUI) -> None:
    assert_like_old_node(comfyui, "LoadFluxControlNetMultiGPU")


def test_a_control_net_is_loaded_and_applied_on_its_device(comfyui: ComfyUI) -> None:
    (control_net,) = comfyui.run("LoadFluxControlNetMultiGPU", device="npu:1", **CONTROL_NET)
    assert str(control_net["model"].weight.device) == "npu:1"
    (conditions,) = comfyui.run("ApplyFluxControlNet", controlnet=control_net, image=IMAGE, strength=1.0)
    assert str(conditions[0]["img"].device) == "npu:1"


def test_the_sampler_computes_on_the_device_of_the_flux_model(comfyui: ComfyUI) -> None:
    (control_net,) = comfyui.run("LoadFluxControlNetMultiGPU", device="npu:1", **CONTROL_NET)
    (conditions,) = comfyui.run("ApplyFluxControlNet", controlnet=control_net, image=IMAGE, strength=1.0)
    for loader, inputs, device in (("UNETLoaderMultiGPU", {"device": "npu:2"}, "npu:2"), ("UNETLoader", {}, "npu:0")):
        (model,) = comfyui.run(loader, **inputs, **FLUX)
        (latent,) = comfyui.run("XlabsSampler", model=model, controlnet_condition=conditions)
        assert str(latent["samples"].device) == device


def test_a_split_model_is_refused_with_the_way_out_and_stays_split(comfyui: ComfyUI) -> None:
    (model,) = comfyui.run("UNETLoaderDisTorch2MultiGPU", compute_device="npu:0", **THIRDS, **FLUX)
    for node, inputs in (("FluxLoraLoader", {"lora_name": "made up", "strength_model": 1.0}), ("XlabsSampler", {})):
        with pytest.raises(RuntimeError, match=r"would undo its split\. Load the model with UNETLoaderMultiGPU"):
            comfyui.run(node, model=model, **inputs)
    assert comfyui.held_bytes() == [0, 0, 0], "nothing has moved"


def test_the_stand_in_is_like_the_real_pack(comfyui: ComfyUI) -> None:
    assert_no_drift(comfyui, "xflux", "x-flux-comfyui")
