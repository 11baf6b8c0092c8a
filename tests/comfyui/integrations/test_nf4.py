"""ComfyUI_bitsandbytes_NF4: a device for its checkpoints, and no split."""

from __future__ import annotations

import pytest

from ..support.in_process import ComfyUI, variants_of
from ..support.packs_at_hand import assert_like_old_node, assert_no_drift, stand_in


@pytest.fixture(scope="module", autouse=True)
def pack(started_comfyui: ComfyUI) -> None:
    variants_of(started_comfyui, stand_in("nf4"), "nf4")


def test_the_node_of_old_workflows_is_there_with_its_inputs_in_order(comfyui: ComfyUI) -> None:
    assert_like_old_node(comfyui, "CheckpointLoaderNF4MultiGPU")


def test_a_checkpoint_goes_to_the_device_of_the_node(comfyui: ComfyUI) -> None:
    model, clip, vae = comfyui.run("CheckpointLoaderNF4MultiGPU", ckpt_name="flux.safetensors", device="npu:1")
    for patcher in (model, clip.patcher, vae.patcher):
        assert str(patcher.load_device) == "npu:1"
    assert str(vae.device) == "npu:1"


def test_there_is_no_split_and_the_node_says_why(comfyui: ComfyUI) -> None:
    mappings = comfyui.nodes.NODE_CLASS_MAPPINGS
    assert "CheckpointLoaderNF4DisTorch2MultiGPU" not in mappings
    assert "cannot be split: bitsandbytes" in mappings["CheckpointLoaderNF4MultiGPU"].DESCRIPTION


def test_the_stand_in_is_like_the_real_pack(comfyui: ComfyUI) -> None:
    assert_no_drift(comfyui, "nf4", "ComfyUI_bitsandbytes_NF4")
