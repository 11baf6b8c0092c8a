"""ComfyUI-HunyuanVideoWrapper: its nodes compute where its loaders put their models."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ..support.in_process import ComfyUI, variants_of
from ..support.packs_at_hand import DEVICES, NODES, assert_no_drift, stand_in

LOADERS = ("HyVideoModelLoader", "HyVideoVAELoader", "DownloadAndLoadHyVideoTextEncoder")
MODEL = {"model": "made up", "base_precision": "bf16", "quantization": "disabled", "load_device": "main_device"}
ENCODER = {"llm_model": "made up", "clip_model": "disabled", "precision": "bf16", "load_device": "offload_device"}
IMAGE = torch.ones(1, 8)


@pytest.fixture(scope="module", autouse=True)
def pack(started_comfyui: ComfyUI) -> None:
    variants_of(started_comfyui, stand_in("hunyuan"), "hunyuan")


def _sampled(comfyui: ComfyUI, model: Any) -> Any:
    return comfyui.run("HyVideoSampler", model=model, hyvid_embeds={}, steps=1)[0]


@pytest.mark.parametrize("loader", LOADERS)
def test_each_loader_gets_a_device_after_its_own_inputs(comfyui: ComfyUI, loader: str) -> None:
    assert f"{loader}MultiGPU" in NODES["also_expected"]
    mappings = comfyui.nodes.NODE_CLASS_MAPPINGS
    ours, theirs = mappings[f"{loader}MultiGPU"].INPUT_TYPES(), mappings[loader].INPUT_TYPES()
    assert ours["required"] == theirs["required"]
    assert list(ours["optional"]) == [*theirs["optional"], "device"]
    assert ours["optional"]["device"][0] == DEVICES
    assert mappings[f"{loader}MultiGPU"].RETURN_TYPES == mappings[loader].RETURN_TYPES


def test_the_sampler_computes_where_the_loader_put_the_model(comfyui: ComfyUI) -> None:
    (model,) = comfyui.run("HyVideoModelLoaderMultiGPU", device="npu:1", **MODEL)
    assert comfyui.held_bytes()[0] == 0 and comfyui.held_bytes()[1] > 0
    assert _sampled(comfyui, model)["computed_on"] == "npu:1"
    assert comfyui.held_bytes() == [0, 0, 0]
    (own,) = comfyui.run("HyVideoModelLoader", **MODEL)
    assert _sampled(comfyui, own)["computed_on"] == "npu:0"


def test_the_pack_s_own_block_swap_swaps_to_and_from_the_device(comfyui: ComfyUI) -> None:
    swap = {"double_blocks_to_swap": 1, "single_blocks_to_swap": 0, "offload_txt_in": False, "offload_img_in": False}
    (model,) = comfyui.run("HyVideoModelLoaderMultiGPU", device="npu:2", block_swap_args=swap, **MODEL)
    sampled = _sampled(comfyui, model)
    assert sampled["computed_on"] == "npu:2" and sampled["blocks_on"] == ["cpu", "npu:2", "npu:2", "npu:2"]


@pytest.mark.parametrize("node", ["HyVideoTextEncode", "HyVideoTextImageEncode"])
def test_text_is_encoded_on_the_encoder_s_device_even_beside_a_model_of_another(comfyui: ComfyUI, node: str) -> None:
    (encoders,) = comfyui.run("DownloadAndLoadHyVideoTextEncoderMultiGPU", device="npu:2", **ENCODER)
    (model,) = comfyui.run("HyVideoModelLoaderMultiGPU", device="npu:1", **MODEL)
    (embeds,) = comfyui.run(node, text_encoders=encoders, prompt="", model_to_offload=model)
    assert str(embeds["prompt_embeds"].device) == "npu:2"
    (own,) = comfyui.run("DownloadAndLoadHyVideoTextEncoder", **ENCODER)
    (embeds,) = comfyui.run(node, text_encoders=own, prompt="", model_to_offload=model)
    assert str(embeds["prompt_embeds"].device) == "npu:0"


def test_an_encoder_that_is_loaded_at_once_is_loaded_on_its_device(comfyui: ComfyUI) -> None:
    inputs = {**ENCODER, "load_device": "main_device"}
    (encoders,) = comfyui.run("DownloadAndLoadHyVideoTextEncoderMultiGPU", device="npu:1", **inputs)
    assert str(encoders["text_encoder"].device) == "npu:1"


def test_the_vae_encodes_and_decodes_on_its_device(comfyui: ComfyUI) -> None:
    (vae,) = comfyui.run("HyVideoVAELoaderMultiGPU", device="npu:1", model_name="made up", precision="bf16")
    assert str(vae.weight.device) == "npu:1"
    (latent,) = comfyui.run("HyVideoEncode", vae=vae, image=IMAGE)
    (image,) = comfyui.run("HyVideoDecode", vae=vae, samples={"samples": IMAGE})
    assert str(latent["samples"].device) == str(image.device) == "npu:1"


def test_the_stand_in_is_like_the_real_pack(comfyui: ComfyUI) -> None:
    assert_no_drift(comfyui, "hunyuan", "ComfyUI-HunyuanVideoWrapper")
