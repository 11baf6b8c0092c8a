"""ComfyUI-MMAudio: its sampler computes where the model is, or where its user says."""

from __future__ import annotations

from typing import Any

import pytest

from ..support.in_process import ComfyUI, variants_of
from ..support.packs_at_hand import NODES, assert_like_old_node, assert_no_drift, stand_in

NODE_IDS = [node_id for node_id in NODES["nodes"] if node_id.startswith("MMAudio")]
FEATURES = {
    "vae_model": "made up",
    "synchformer_model": "made up",
    "clip_model": "made up",
    "mode": "44k",
    "precision": "fp32",
}


@pytest.fixture(scope="module", autouse=True)
def pack(started_comfyui: ComfyUI) -> None:
    variants_of(started_comfyui, stand_in("mmaudio"), "mmaudio")


def _models(comfyui: ComfyUI, device: str, features: str) -> dict[str, Any]:
    loader = {"mmaudio_model": "made up", "base_precision": "fp32"}
    return {
        "mmaudio_model": comfyui.run("MMAudioModelLoaderMultiGPU", device=device, **loader)[0],
        "feature_utils": comfyui.run("MMAudioFeatureUtilsLoaderMultiGPU", device=features, **FEATURES)[0],
    }


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_every_node_of_old_workflows_is_there_with_its_inputs_in_order(comfyui: ComfyUI, node_id: str) -> None:
    assert_like_old_node(comfyui, node_id)


def test_features_are_loaded_on_their_device(comfyui: ComfyUI) -> None:
    (features,) = comfyui.run("MMAudioFeatureUtilsLoaderMultiGPU", device="npu:2", **FEATURES)
    assert str(features.weight.device) == "npu:2"
    assert comfyui.held_bytes()[:2] == [0, 0]


def test_the_pack_s_own_sampler_computes_where_the_model_belongs(comfyui: ComfyUI) -> None:
    models = _models(comfyui, "npu:1", "npu:2")
    (audio,) = comfyui.run("MMAudioSampler", **models)
    assert str(audio["waveform"].device) == "npu:1"
    assert str(models["feature_utils"].weight.device) == "cpu"


def test_our_sampler_computes_on_the_device_that_its_user_chooses(comfyui: ComfyUI) -> None:
    (audio,) = comfyui.run("MMAudioSamplerMultiGPU", device="npu:2", **_models(comfyui, "npu:1", "npu:1"))
    assert str(audio["waveform"].device) == "npu:2"


def test_the_stand_in_is_like_the_real_pack(comfyui: ComfyUI) -> None:
    assert_no_drift(comfyui, "mmaudio", "ComfyUI-MMAudio")
