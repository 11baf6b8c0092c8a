"""Packs that ask for the device again when they run: the device follows the model, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from .inprocess import ComfyUI, variants_of
from .split_models import model_management

PACKS = Path(__file__).parent / "packs"
REAL = {
    "florence2": "ComfyUI-Florence2",
    "mmaudio": "ComfyUI-MMAudio",
    "xflux": "x-flux-comfyui",
    "pulid": "PuLID_ComfyUI",
    "nf4": "ComfyUI_bitsandbytes_NF4",
    "ltx": "ComfyUI-LTXVideo",
}
HUNYUAN = ("HyVideoModelLoaderMultiGPU", "HyVideoVAELoaderMultiGPU", "DownloadAndLoadHyVideoTextEncoderMultiGPU")
EXPECTED = json.loads((Path(__file__).parent / "data" / "nodes.json").read_text())["nodes"]
NODE_IDS = {
    "florence2": ("Florence2ModelLoaderMultiGPU", "DownloadAndLoadFlorence2ModelMultiGPU"),
    "mmaudio": ("MMAudioModelLoaderMultiGPU", "MMAudioFeatureUtilsLoaderMultiGPU", "MMAudioSamplerMultiGPU"),
    "xflux": ("LoadFluxControlNetMultiGPU",),
    "pulid": ("PulidModelLoaderMultiGPU", "PulidInsightFaceLoaderMultiGPU", "PulidEvaClipLoaderMultiGPU"),
    "nf4": ("CheckpointLoaderNF4MultiGPU",),
    "ltx": ("LTXVLoaderMultiGPU",),
}
FLORENCE = {"model": "a", "precision": "fp32", "attention": "sdpa"}
PICTURE = torch.ones(1, 4)


@pytest.fixture(scope="module")
def packs(started_comfyui: ComfyUI) -> ComfyUI:
    for name in (*NODE_IDS, "hunyuan"):
        variants_of(started_comfyui, PACKS / name, name)
    return started_comfyui


@pytest.mark.parametrize(("pack", "node_id"), [(pack, node) for pack, nodes in NODE_IDS.items() for node in nodes])
def test_every_node_of_old_workflows_is_there_with_its_inputs_in_order(
    packs: ComfyUI, comfyui: ComfyUI, pack: str, node_id: str
) -> None:
    node = comfyui.nodes.NODE_CLASS_MAPPINGS[node_id]
    inputs = node.INPUT_TYPES()
    assert [*inputs.get("required", {}), *inputs.get("optional", {})] == [
        entry["name"] for entry in EXPECTED[node_id]["inputs"]
    ]
    assert list(node.RETURN_TYPES) == EXPECTED[node_id]["outputs"]


def test_the_pack_s_own_run_node_computes_where_the_model_was_loaded_for(packs: ComfyUI, comfyui: ComfyUI) -> None:
    (model,) = comfyui.run("Florence2ModelLoaderMultiGPU", **FLORENCE, device="npu:1", offload_device="npu:2")
    assert model["model"].weight.device == torch.device("npu:2")
    expected = model["model"].cpu()(PICTURE)
    picture, used = comfyui.run("Florence2Run", image=PICTURE, florence2_model=model)
    assert used == "npu:1" and torch.equal(picture, expected)
    assert model["model"].weight.device == torch.device("npu:2"), "and then it waits where it was told to"


def test_a_model_from_the_pack_s_own_loader_is_used_as_ever(packs: ComfyUI, comfyui: ComfyUI) -> None:
    (model,) = comfyui.run("Florence2ModelLoader", **FLORENCE)
    _, used = comfyui.run("Florence2Run", image=PICTURE, florence2_model=model, keep_model_loaded=True)
    assert used == str(model_management().get_torch_device()) == "npu:0"


def test_a_loader_that_raises_leaves_the_device_as_it_was(packs: ComfyUI, comfyui: ComfyUI) -> None:
    with pytest.raises(RuntimeError, match="no such model"):
        comfyui.run("Florence2ModelLoaderMultiGPU", **{**FLORENCE, "model": "fails"}, device="npu:1")
    assert str(model_management().get_torch_device()) == "npu:0"


def test_bare_modules_are_followed_too(packs: ComfyUI, comfyui: ComfyUI) -> None:
    model, features = _audio_models(comfyui, "npu:2")
    (audio,) = comfyui.run("MMAudioSampler", mmaudio_model=model, feature_utils=features)
    assert audio["used"] == "npu:2"


def test_a_device_chosen_at_the_sampler_wins(packs: ComfyUI, comfyui: ComfyUI) -> None:
    model, features = _audio_models(comfyui, "npu:2")
    (audio,) = comfyui.run("MMAudioSamplerMultiGPU", mmaudio_model=model, feature_utils=features, device="npu:1")
    assert audio["used"] == "npu:1"


def test_an_x_flux_controlnet_and_its_hint_are_on_the_chosen_card(packs: ComfyUI, comfyui: ComfyUI) -> None:
    inputs = {"model_name": "flux-dev", "controlnet_path": "a"}
    (controlnet,) = comfyui.run("LoadFluxControlNetMultiGPU", **inputs, device="npu:1")
    (condition,) = comfyui.run("ApplyFluxControlNet", controlnet=controlnet, image=PICTURE)
    assert condition["hint"].device == condition["controlnet"].weight.device == torch.device("npu:1")


def test_pulid_is_applied_where_the_model_computes_whatever_its_own_device(packs: ComfyUI, comfyui: ComfyUI) -> None:
    flux = {"unet_name": "flux.safetensors", "weight_dtype": "default"}
    (model,) = comfyui.run("UNETLoaderMultiGPU", **flux, device="npu:2")
    (pulid,) = comfyui.run("PulidModelLoaderMultiGPU", pulid_file="a", device="npu:1")
    (eva_clip,) = comfyui.run("PulidEvaClipLoaderMultiGPU", device="npu:1")
    _, used = comfyui.run("ApplyPulid", model=model, pulid=pulid, eva_clip=eva_clip)
    assert used == "npu:2"


def test_an_nf4_checkpoint_goes_whole_to_the_chosen_card(packs: ComfyUI, comfyui: ComfyUI) -> None:
    loaded = comfyui.run("CheckpointLoaderNF4MultiGPU", ckpt_name="flux.safetensors", device="npu:1")
    patchers = [loaded[0], loaded[1].patcher, loaded[2].patcher]
    assert {str(patcher.load_device) for patcher in patchers} == {"npu:1"}
    model_management().load_models_gpu(patchers)
    held = comfyui.held_bytes()
    assert held[1] > 0 and held[0] == held[2] == 0


def test_hunyuan_s_loaders_sampler_and_text_encoder_agree_on_the_chosen_cards(packs: ComfyUI, comfyui: ComfyUI) -> None:
    model, vae, encoder = (
        comfyui.run(node, load_device="main_device", device=device)[0]
        for node, device in zip(HUNYUAN, ("npu:1", "npu:2", "npu:2"), strict=True)
    )
    assert comfyui.run("HyVideoSampler", model=model) == ("npu:1",)
    assert comfyui.run("HyVideoDecode", vae=vae) == ("npu:2",)
    assert comfyui.run("HyVideoTextEncode", text_encoders=encoder) == ("npu:2",)


def test_an_ltx_checkpoint_of_today_s_pack_can_be_split(packs: ComfyUI, comfyui: ComfyUI) -> None:
    expert = "npu:1,50%;npu:2,50%"
    node = "LowVRAMCheckpointLoaderDisTorch2MultiGPU"
    loaded = comfyui.run(node, ckpt_name="flux.safetensors", compute_device="npu:1", expert_mode_allocations=expert)
    model_management().load_models_gpu([loaded[0]])
    held = comfyui.held_bytes()
    assert held[0] == 0 and held[1] > 0 and held[2] > 0


@pytest.mark.parametrize("pack", NODE_IDS)
def test_the_stand_in_has_the_inputs_and_outputs_of_the_real_pack(packs: ComfyUI, comfyui: ComfyUI, pack: str) -> None:
    folder = Path(os.environ.get("MULTIGPU_PACKS", "")) / REAL[pack]
    if "MULTIGPU_PACKS" not in os.environ or not folder.is_dir():
        pytest.skip(f"MULTIGPU_PACKS names no folder with the real {REAL[pack]}")
    mappings = comfyui.nodes.NODE_CLASS_MAPPINGS
    stand_ins = {node_id.removesuffix("MultiGPU"): _shape(mappings, node_id) for node_id in NODE_IDS[pack]}
    stand_in_classes = {target: mappings.pop(target) for target in stand_ins}
    try:
        if not asyncio.run(comfyui.nodes.load_custom_node(str(folder), module_parent="custom_nodes")):
            pytest.skip(f"the real {REAL[pack]} cannot be imported here")
        for target, (names, outputs) in stand_ins.items():
            real_names, real_outputs = _shape(mappings, target)
            assert ([n for n in names if n not in ("device", "offload_device")], outputs) == (real_names, real_outputs)
    finally:
        mappings.update(stand_in_classes)


def _shape(mappings: dict[str, Any], node_id: str) -> tuple[list[str], list[str]]:
    inputs = mappings[node_id].INPUT_TYPES()
    return [*inputs.get("required", {}), *inputs.get("optional", {})], list(mappings[node_id].RETURN_TYPES)


def _audio_models(comfyui: ComfyUI, device: str) -> tuple[Any, Any]:
    (model,) = comfyui.run("MMAudioModelLoaderMultiGPU", mmaudio_model="a", base_precision="fp32", device=device)
    files = dict.fromkeys(("vae_model", "synchformer_model", "clip_model"), "a")
    settings = {"mode": "44k", "precision": "fp32", "device": device}
    (features,) = comfyui.run("MMAudioFeatureUtilsLoaderMultiGPU", **files, **settings)
    return model, features
