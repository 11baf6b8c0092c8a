"""PuLID_ComfyUI: what Apply adds to a model is on that model's device, and the face analysis on its card."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from multigpu.integrations import pulid

from ..support.in_process import ComfyUI, variants_of
from ..support.packs_at_hand import NODES, assert_like_old_node, assert_no_drift, stand_in

NODE_IDS = [node_id for node_id in NODES["nodes"] if node_id.startswith("Pulid")]
FLUX = {"unet_name": "flux.safetensors", "weight_dtype": "default"}


@pytest.fixture(scope="module", autouse=True)
def pack(started_comfyui: ComfyUI) -> None:
    variants_of(started_comfyui, stand_in("pulid"), "pulid")


def _faces(comfyui: ComfyUI, node: str, model: Any, device: str) -> torch.Tensor:
    made = {
        "pulid": comfyui.run("PulidModelLoaderMultiGPU", pulid_file="made up", device=device)[0],
        "eva_clip": comfyui.run("PulidEvaClipLoaderMultiGPU", device=device)[0],
        "face_analysis": comfyui.run("PulidInsightFaceLoaderMultiGPU", provider="CPU", device=device)[0],
    }
    (changed,) = comfyui.run(node, model=model, image=torch.ones(1, 8), weight=1.0, start_at=0.0, end_at=1.0, **made)
    faces: torch.Tensor = changed.model_options["transformer_options"]["faces"]
    return faces


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_every_node_of_old_workflows_is_there_with_its_inputs_in_order(comfyui: ComfyUI, node_id: str) -> None:
    assert_like_old_node(comfyui, node_id)


@pytest.mark.parametrize("node", ["ApplyPulid", "ApplyPulidAdvanced"])
def test_faces_are_added_on_the_device_of_the_model(comfyui: ComfyUI, node: str) -> None:
    (model,) = comfyui.run("UNETLoaderMultiGPU", device="npu:1", **FLUX)
    assert str(_faces(comfyui, node, model, "npu:2").device) == "npu:1"
    (own,) = comfyui.run("UNETLoader", **FLUX)
    assert str(_faces(comfyui, node, own, "npu:2").device) == "npu:0", "PuLID's own device does not matter here"


def test_a_pulid_model_is_loaded_on_its_device(comfyui: ComfyUI) -> None:
    (made,) = comfyui.run("PulidModelLoaderMultiGPU", pulid_file="made up", device="npu:2")
    assert str(made.weight.device) == "npu:2"


def test_the_face_analysis_opens_on_the_chosen_card(comfyui: ComfyUI) -> None:
    node = "PulidInsightFaceLoaderMultiGPU"
    (faces,) = comfyui.run(node, provider="CUDA", device="npu:2")
    assert faces.options == {"providers": ["CUDAExecutionProvider"], "provider_options": [{"device_id": 2}]}
    (faces,) = comfyui.run(node, provider="CPU", device="npu:2")
    assert faces.options == {"providers": ["CPUExecutionProvider"]}
    (faces,) = comfyui.run("PulidInsightFaceLoader", provider="CUDA")
    assert faces.options == {"providers": ["CUDAExecutionProvider"]}, "the pack's own loader is as it was"


def test_the_pack_s_face_analysis_is_restored_when_it_fails(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulid, "PROVIDERS", ("CoreML",))
    with pytest.raises(ValueError, match="no such provider"):
        comfyui.run("PulidInsightFaceLoaderMultiGPU", provider="CoreML", device="npu:2")
    (faces,) = comfyui.run("PulidInsightFaceLoader", provider="CUDA")
    assert faces.options == {"providers": ["CUDAExecutionProvider"]}


def test_the_stand_in_is_like_the_real_pack(comfyui: ComfyUI) -> None:
    assert_no_drift(comfyui, "pulid", "PuLID_ComfyUI")
