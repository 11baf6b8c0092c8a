"""Devices of other machines are offered where they can be used, and refused elsewhere with what to do instead."""

from __future__ import annotations

from typing import Any

import pytest

from multigpu.multigpu_core.comfy.machines.node import REMOTE_LOADERS
from multigpu.multigpu_core.comfy.machines.remote_model import UnsupportedRemotelyError

from .conftest import SecondMachine
from .test_models_elsewhere import ENCODERS, VAE

OURS = ["node2/npu:1", "node2/npu:2"]


def _menu(node2: SecondMachine, node: str) -> list[str]:
    inputs = node2.comfyui.nodes.NODE_CLASS_MAPPINGS[node].INPUT_TYPES()
    return list(next(specs["device"] for specs in inputs.values() if "device" in specs)[0])


def _fault(node2: SecondMachine, node: str, **inputs: Any) -> Any:
    return node2.comfyui.nodes.NODE_CLASS_MAPPINGS[node].VALIDATE_INPUTS(**inputs)


@pytest.mark.parametrize("node", REMOTE_LOADERS)
def test_the_menu_of_each_loader_ends_with_the_devices_of_other_machines(node2: SecondMachine, node: str) -> None:
    assert _menu(node2, node) == ["cpu", "npu:0", "npu:1", "npu:2", *OURS]
    assert _fault(node2, node, device="node2/npu:1") is True
    assert "There is no device 'node9/npu:1'" in _fault(node2, node, device="node9/npu:1")


def test_looking_at_menus_connects_to_nobody(node2: SecondMachine) -> None:
    _menu(node2, "VAELoaderMultiGPU")
    _fault(node2, "VAELoaderMultiGPU", device="node2/npu:1")
    assert node2.engine.started == []


@pytest.mark.parametrize(
    ("node", "inputs"),
    [
        ("UNETLoaderMultiGPU", {"device": "node2/npu:1"}),
        ("UNETLoaderDisTorch2MultiGPU", {"compute_device": "node2/npu:1"}),
        ("UNETLoaderDisTorch2MultiGPU", {"compute_device": "npu:0", "donor_device": "node2/npu:1"}),
        ("CLIPLoaderDisTorch2MultiGPU", {"device": "node2/npu:1"}),
    ],
)
def test_what_cannot_be_done_there_is_refused_before_the_prompt_runs(
    node2: SecondMachine, node: str, inputs: dict[str, str]
) -> None:
    fault = _fault(node2, node, **inputs)
    assert "It is a device of another machine" in fault
    assert "VAELoader" in fault and "8.6 s in every step" in fault, "with an alternative, and the arithmetic"


def test_a_split_with_a_donor_elsewhere_is_refused_at_its_node(node2: SecondMachine) -> None:
    with pytest.raises(ValueError, match="It is a device of another machine"):
        node2.run(
            "UNETLoaderDisTorch2MultiGPU",
            unet_name="flux.safetensors",
            weight_dtype="default",
            compute_device="npu:0",
            expert_mode_allocations="npu:0,50%;node2/npu:1,50%",
        )


@pytest.mark.parametrize("name", ["pixel_space", "taesd"])
def test_a_vae_that_is_no_file_is_refused_with_an_alternative(node2: SecondMachine, name: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be loaded on node2/npu:1\. Choose a device of this machine"):
        node2.run("VAELoaderMultiGPU", vae_name=name, device="node2/npu:1")


def test_what_needs_the_weights_at_home_is_refused_with_an_alternative(node2: SecondMachine) -> None:
    (clip,) = node2.run("CLIPLoaderMultiGPU", **ENCODERS["CLIPLoaderMultiGPU"], device="node2/npu:1")
    (vae,) = node2.run("VAELoaderMultiGPU", **VAE, device="node2/npu:1")
    told = "is on node2/npu:1, and .* needs it on this machine. Choose a device of this machine in its loader"
    for reach in (lambda: clip.patcher, lambda: clip.cond_stage_model, lambda: vae.first_stage_model):
        with pytest.raises(UnsupportedRemotelyError, match=told):
            reach()
    with pytest.raises(UnsupportedRemotelyError, match="an embedding in a prompt"):
        node2.run("CLIPTextEncode", clip=clip, text="a photo, embedding:style")


def test_a_lora_for_a_text_encoder_elsewhere_is_refused_at_its_node(node2: SecondMachine) -> None:
    (clip,) = node2.run("CLIPLoaderMultiGPU", **ENCODERS["CLIPLoaderMultiGPU"], device="node2/npu:1")
    with pytest.raises(UnsupportedRemotelyError, match="The text encoder is on node2/npu:1"):
        node2.run(
            "LoraLoader", model=None, clip=clip, lora_name="flux.safetensors", strength_model=1.0, strength_clip=1.0
        )
