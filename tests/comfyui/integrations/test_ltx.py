"""ComfyUI-LTXVideo: the loaders of both its generations on a device, and splits where they are possible."""

from __future__ import annotations

import pytest

from ..support.in_process import ComfyUI, variants_of
from ..support.packs_at_hand import assert_like_old_node, real_pack, shapes, stand_in

CHECKPOINT = {"ckpt_name": "flux.safetensors"}
SPLIT = "LowVRAMCheckpointLoaderDisTorch2MultiGPU"


@pytest.fixture(scope="module", autouse=True)
def pack(started_comfyui: ComfyUI) -> None:
    variants_of(started_comfyui, stand_in("ltx"), "ltx")


def test_the_node_of_old_workflows_is_there_with_its_inputs_in_order(comfyui: ComfyUI) -> None:
    assert_like_old_node(comfyui, "LTXVLoaderMultiGPU")


def test_old_and_new_checkpoint_loaders_load_on_the_chosen_device(comfyui: ComfyUI) -> None:
    model, vae = comfyui.run("LTXVLoaderMultiGPU", dtype="bfloat16", device="npu:1", **CHECKPOINT)
    assert (str(model.load_device), str(vae.patcher.load_device), str(vae.device)) == ("npu:1",) * 3
    model, clip, vae = comfyui.run("LowVRAMCheckpointLoaderMultiGPU", device="npu:2", dependencies=[1], **CHECKPOINT)
    assert {str(each.load_device) for each in (model, clip.patcher, vae.patcher)} == {"npu:2"}


def test_a_checkpoint_is_split(comfyui: ComfyUI) -> None:
    shares = "npu:0,40%;npu:1,30%;cpu,30%"
    model, _, _ = comfyui.run(SPLIT, compute_device="npu:0", expert_mode_allocations=shares, **CHECKPOINT)
    assert set(model.multigpu_placement.draft().bytes_by_device) == {"npu:0", "npu:1", "cpu"}


def test_the_upscaler_is_placed_whole_or_split(comfyui: ComfyUI) -> None:
    node = "LowVRAMLatentUpscaleModelLoader"
    (whole,) = comfyui.run(f"{node}MultiGPU", model_name="made up", device="npu:1")
    assert str(whole.load_device) == "npu:1"
    shares = "npu:0,50%;npu:1,50%"
    (split,) = comfyui.run(
        f"{node}DisTorch2MultiGPU", model_name="made up", compute_device="npu:0", expert_mode_allocations=shares
    )
    assert {device for device, size in split.multigpu_placement.draft().bytes_by_device.items() if size} == {
        "npu:0",
        "npu:1",
    }


def test_text_encoder_and_audio_vae_are_placed_whole(comfyui: ComfyUI) -> None:
    encoder = {"gemma_path": "made up", "ltxv_path": "flux.safetensors", "max_length": 16, "device": "npu:1"}
    (clip,) = comfyui.run("LTXVGemmaCLIPModelLoaderMultiGPU", **encoder)
    (vae,) = comfyui.run("LowVRAMAudioVAELoaderMultiGPU", device="npu:2", **CHECKPOINT)
    assert (str(clip.patcher.load_device), str(vae.patcher.load_device)) == ("npu:1", "npu:2")


def test_a_prompt_is_enhanced_on_the_device_of_the_enhancer_which_is_where_room_is_made(comfyui: ComfyUI) -> None:
    names = {"llm_name": "made up", "image_captioner_name": "made up"}
    (enhancer,) = comfyui.run("LTXVPromptEnhancerLoaderMultiGPU", device="npu:1", **names)
    (text,) = comfyui.run("LTXVPromptEnhancer", prompt="a cat", prompt_enhancer=enhancer, max_resulting_tokens=9)
    assert text == "a cat on npu:1, room on npu:1"


def test_the_stand_in_is_like_the_real_pack(comfyui: ComfyUI) -> None:
    """The real pack has one of the two generations."""
    theirs = shapes(comfyui, real_pack("ComfyUI-LTXVideo"))
    ours = shapes(comfyui, stand_in("ltx"))
    shared = ours.keys() & theirs.keys()
    assert shared == {"LTXVLoader"} or shared == ours.keys() - {"LTXVLoader"}
    assert {node_id: ours[node_id] for node_id in shared} == {node_id: theirs[node_id] for node_id in shared}
