"""ComfyUI-WanVideoWrapper: its nodes, its devices in module globals, and its block swap, on a stand-in for the pack."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ..support.in_process import ComfyUI, variants_of
from ..support.packs_at_hand import DEVICES, NODES, assert_like_old_node, assert_no_drift, real_pack, stand_in

PREFIXES = ("WanVideo", "LoadWanVideo", "FantasyTalking", "DownloadAndLoadWav2Vec")
NODE_IDS = [node_id for node_id in NODES["nodes"] if node_id.startswith(PREFIXES)]
MODEL = {
    "model": "made up",
    "base_precision": "bf16",
    "quantization": "disabled",
    "load_device": "offload_device",
    "compute_device": "npu:1",
}
SAMPLING = {
    "image_embeds": {},
    "steps": 2,
    "cfg": 1.0,
    "shift": 5.0,
    "seed": 3,
    "scheduler": "unipc",
    "riflex_freq_index": 0,
}
TILES = {"enable_vae_tiling": False, "tile_x": 272, "tile_y": 272, "tile_stride_x": 144, "tile_stride_y": 128}
IMAGE = torch.ones(1, 8)


@pytest.fixture(scope="module", autouse=True)
def pack(started_comfyui: ComfyUI) -> None:
    variants_of(started_comfyui, stand_in("wanvideo"), "wanvideo")


@pytest.fixture(autouse=True)
def globals_stay(comfyui: ComfyUI) -> Iterator[None]:
    """Whatever a test does, the pack's globals are ComfyUI's own devices afterwards."""
    yield
    found = _globals(comfyui)
    assert len(found) >= 8
    assert {str(device) for name, device in found.items() if name.endswith(".device")} == {"npu:0"}
    assert {str(device) for name, device in found.items() if name.endswith("offload_device")} == {"cpu"}


def _globals(comfyui: ComfyUI) -> dict[str, torch.device]:
    root = comfyui.nodes.NODE_CLASS_MAPPINGS["WanVideoSampler"].__module__.split(".")[0]
    modules = {name: module for name, module in sys.modules.items() if name.split(".")[0] == root}
    return {
        f"{name}.{variable}": vars(module)[variable]
        for name, module in modules.items()
        for variable in ("device", "offload_device")
        if variable in vars(module)
    }


def _sampled(comfyui: ComfyUI, model: Any, **inputs: Any) -> Any:
    return comfyui.run("WanVideoSampler", model=model, **{**SAMPLING, **inputs})[0]


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_every_node_of_old_workflows_is_there_with_its_inputs_in_order(comfyui: ComfyUI, node_id: str) -> None:
    assert_like_old_node(comfyui, node_id)


def test_a_second_model_loader_holds_a_second_model_on_another_device(comfyui: ComfyUI) -> None:
    first, device = comfyui.run("WanVideoModelLoaderMultiGPU", **MODEL)
    second, other = comfyui.run("WanVideoModelLoaderMultiGPU_2", **{**MODEL, "compute_device": "npu:2"})
    assert (device, other) == ("npu:1", "npu:2")
    assert _sampled(comfyui, first)["computed_on"] == "npu:1"
    assert _sampled(comfyui, second)["computed_on"] == "npu:2"
    assert _sampled(comfyui, first)["computed_on"] == "npu:1"


def test_the_pack_s_own_sampler_computes_where_the_loader_put_the_model(comfyui: ComfyUI) -> None:
    expected = _sampled(comfyui, comfyui.run("WanVideoModelLoader", **_without_device(MODEL))[0])
    assert expected["computed_on"] == "npu:0", "a model of the pack's own loader stays where it ever was"
    comfyui.reset()
    model, _ = comfyui.run("WanVideoModelLoaderMultiGPU", **MODEL)
    sampled = _sampled(comfyui, model)
    assert sampled["computed_on"] == "npu:1" and set(sampled["blocks_on"]) == {"npu:1"}
    assert torch.equal(sampled["samples"], expected["samples"])
    assert comfyui.held_bytes() == [0, 0, 0], "offloaded as a whole to the cpu"


def _without_device(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name != "compute_device"}


def test_a_model_that_is_loaded_at_once_is_loaded_on_its_device(comfyui: ComfyUI) -> None:
    model, _ = comfyui.run("WanVideoModelLoaderMultiGPU", **{**MODEL, "load_device": "main_device"})
    assert str(model.load_device) == "npu:1"
    assert comfyui.held_bytes()[0] == 0 and comfyui.held_bytes()[1] > 0


def test_swapped_blocks_are_kept_on_the_swap_device(comfyui: ComfyUI) -> None:
    swap = {"blocks_to_swap": 2, "offload_img_emb": False, "offload_txt_emb": False, "swap_device": "npu:2"}
    (arguments,) = comfyui.run("WanVideoBlockSwapMultiGPU", **swap)
    model, _ = comfyui.run("WanVideoModelLoaderMultiGPU", **MODEL, block_swap_args=arguments)
    transformer = model.model.diffusion_model
    whole, _ = comfyui.run("WanVideoModelLoaderMultiGPU", **MODEL)
    sampled = _sampled(comfyui, model)
    assert sampled["blocks_on"] == ["npu:2", "npu:2", "npu:1", "npu:1"]
    assert torch.equal(sampled["samples"], _sampled(comfyui, whole)["samples"])
    assert str(transformer.offload_device) == "cpu", "what the transformer keeps is restored"


def test_the_sampler_s_device_input_outranks_the_model_s_device(comfyui: ComfyUI) -> None:
    model, _ = comfyui.run("WanVideoModelLoaderMultiGPU", **MODEL)
    node = "WanVideoSamplerMultiGPU"
    assert comfyui.run(node, model=model, compute_device="npu:2", **SAMPLING)[0]["computed_on"] == "npu:2"
    own = comfyui.run("WanVideoModelLoader", **_without_device(MODEL))[0]
    assert comfyui.run(node, model=own, compute_device="npu:2", **SAMPLING)[0]["computed_on"] == "npu:2"


def test_globals_are_restored_when_a_node_fails(comfyui: ComfyUI) -> None:
    model, _ = comfyui.run("WanVideoModelLoaderMultiGPU", **MODEL)
    with pytest.raises(ValueError, match="no such scheduler"):
        _sampled(comfyui, model, scheduler="broken")
    with pytest.raises(ValueError, match="a broken file"):
        comfyui.run("WanVideoModelLoaderMultiGPU", **{**MODEL, "model": "broken"})
    assert str(model.model.diffusion_model.main_device) == "npu:1"


def test_two_samplers_at_once_compute_each_on_its_own_device(comfyui: ComfyUI) -> None:
    models = [comfyui.run("WanVideoModelLoaderMultiGPU", **{**MODEL, "compute_device": d})[0] for d in DEVICES[1:]]
    seen: dict[int, set[str]] = {}

    def sample(index: int) -> None:
        with torch.inference_mode():  # each thread has a mode of its own
            seen[index] = {_sampled(comfyui, models[index])["computed_on"] for _ in range(8)}

    threads = [threading.Thread(target=sample, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {0: {"npu:0"}, 1: {"npu:1"}, 2: {"npu:2"}}


def test_modules_that_are_imported_on_the_way_keep_comfyui_s_devices(comfyui: ComfyUI) -> None:
    """They ask for their devices while ours are set; `globals_stay` looks at them when the test is over."""
    vae, _ = comfyui.run("WanVideoVAELoaderMultiGPU", model_name="made up", load_device="npu:2", precision="bf16")
    comfyui.run("WanVideoEncode", vae=vae, image=IMAGE, **TILES)
    assert any(name.endswith(".late.device") for name in _globals(comfyui))
    for _ in range(2):
        assert str(comfyui.run("WanVideoEncode", vae=vae, image=IMAGE, **TILES)[0]["samples"].device) == "npu:2"


@pytest.mark.parametrize("loader", ["WanVideoVAELoader", "WanVideoTinyVAELoader"])
def test_a_vae_encodes_and_decodes_on_its_device(comfyui: ComfyUI, loader: str) -> None:
    vae, device = comfyui.run(f"{loader}MultiGPU", model_name="made up", load_device="npu:1", precision="bf16")
    samples = {"samples": IMAGE}
    for suffix, given in (("", {}), ("MultiGPU", {"load_device": device})):
        (image,) = comfyui.run(f"WanVideoDecode{suffix}", vae=vae, samples=samples, **given, **TILES)
        assert str(image.device) == "npu:1"
        (latent,) = comfyui.run(f"WanVideoEncode{suffix}", vae=vae, image=IMAGE, **given, **TILES)
        assert str(latent["samples"].device) == "npu:1"
        size = {"width": 8, "height": 8, "num_frames": 1}
        (embeds,) = comfyui.run(f"WanVideoVACEEncode{suffix}", vae=vae, **given, **size)
        assert str(embeds["vace_context"].device) == "npu:1"
        (embeds,) = comfyui.run(f"WanVideoImageToVideoEncode{suffix}", vae=vae, start_image=IMAGE, **given, **size)
        assert str(embeds["image_embeds"].device) == "npu:1"


def test_a_text_encoder_in_a_dict_is_followed_to_its_device(comfyui: ComfyUI) -> None:
    load = {"model_name": "made up", "precision": "bf16", "device": "npu:2"}
    t5, device = comfyui.run("LoadWanVideoT5TextEncoderMultiGPU", **load)
    assert str(next(t5["model"].model.parameters()).device) == device == "npu:2"
    video_model, _ = comfyui.run("WanVideoModelLoaderMultiGPU", **MODEL)
    texts = {"positive_prompt": "", "negative_prompt": ""}
    for node, inputs in (
        ("WanVideoTextEncode", {**texts, "model_to_offload": video_model}),
        ("WanVideoTextEncodeMultiGPU", texts),
        ("WanVideoTextEncodeMultiGPU", {**texts, "load_device": "npu:2"}),
        ("WanVideoTextEncodeSingle", {"prompt": ""}),
        ("WanVideoTextEncodeSingleMultiGPU", {"prompt": "", "load_device": "npu:2"}),
    ):
        (embeds,) = comfyui.run(node, t5=dict(t5), **inputs)
        assert str(embeds["prompt_embeds"].device) == "npu:2", node
    (embeds,) = comfyui.run("WanVideoTextEncodeMultiGPU", t5=t5, load_device="cpu", **texts)
    assert str(embeds["prompt_embeds"].device) == "cpu"


def test_a_text_encoder_that_is_loaded_for_one_prompt_encodes_on_the_chosen_device(comfyui: ComfyUI) -> None:
    inputs = {"model_name": "made up", "precision": "bf16", "positive_prompt": "", "negative_prompt": ""}
    embeds, _, _ = comfyui.run("WanVideoTextEncodeCachedMultiGPU", load_device="npu:1", **inputs)
    assert str(embeds["prompt_embeds"].device) == "npu:1"


def test_an_image_encoder_works_on_its_device(comfyui: ComfyUI) -> None:
    load = {"model_name": "made up", "precision": "fp16", "device": "npu:1"}
    clip_vision, _ = comfyui.run("LoadWanVideoClipTextEncoderMultiGPU", **load)
    for suffix, given in (("", {}), ("MultiGPU", {"load_device": "npu:1"})):
        node = f"WanVideoClipVisionEncode{suffix}"
        (embeds,) = comfyui.run(node, clip_vision=clip_vision, image_1=IMAGE, **given)
        assert str(embeds["clip_embeds"].device) == "npu:1"


@pytest.mark.parametrize(
    "loader",
    [
        "WanVideoControlnetLoader",
        "WanVideoUni3C_ControlnetLoader",
        "FantasyTalkingModelLoader",
        "Wav2VecModelLoader",
        "DownloadAndLoadWav2VecModel",
    ],
)
def test_loaders_of_sub_packages_load_on_the_chosen_device(comfyui: ComfyUI, loader: str) -> None:
    node = comfyui.nodes.NODE_CLASS_MAPPINGS[loader]
    inputs = dict.fromkeys(node.INPUT_TYPES()["required"], "made up")
    (module,) = comfyui.run(f"{loader}MultiGPU", device="npu:2", **inputs)
    assert str(module.weight.device) == "npu:2"


def test_a_former_input_name_still_reaches_the_loader(comfyui: ComfyUI) -> None:
    model, _ = comfyui.run("WanVideoModelLoaderMultiGPU", **MODEL, vace_model={"path": "vace"})
    assert model.model["vace"] == {"path": "vace"}


def test_a_node_s_own_check_of_its_inputs_is_kept(comfyui: ComfyUI) -> None:
    check = comfyui.nodes.NODE_CLASS_MAPPINGS["WanVideoDecodeMultiGPU"].VALIDATE_INPUTS
    assert check(tile_x=272, tile_y=272, tile_stride_x=144, tile_stride_y=128) is True
    assert "larger than the tile stride" in check(tile_x=10, tile_y=272, tile_stride_x=144, tile_stride_y=128)


def test_a_forgotten_model_is_no_longer_remembered(comfyui: ComfyUI) -> None:
    models = comfyui.framework.context.models
    model, _ = comfyui.run("WanVideoModelLoaderMultiGPU", **MODEL)
    assert str(models.devices_of(model).compute) == "npu:1"
    known = len(models)
    del model
    comfyui.reset()
    assert len(models) == known - 1


def test_the_stand_in_is_like_the_real_pack(comfyui: ComfyUI) -> None:
    if not (real_pack("ComfyUI-WanVideoWrapper") / "nodes_model_loading.py").exists():
        pytest.skip("The stand-in is that of 2026; the pack at hand is older")
    assert_no_drift(comfyui, "wanvideo", "ComfyUI-WanVideoWrapper")
