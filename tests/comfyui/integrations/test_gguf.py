"""ComfyUI-GGUF's models: their variants, and splits whose weights stay quantised wherever they lie.

The tests run on a stand-in for the pack, and on the real one where the environment variable MULTIGPU_PACKS names a
folder that holds it.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from multigpu.multigpu_core.allocation import BlockKind, inventory_of_file, inventory_of_module
from multigpu.multigpu_core.provisioning import tiny_models

from ..support.architectures import ARCHITECTURES
from ..support.gguf_files import FILES, SHAPE, write_gguf, write_gguf_files, write_gguf_header
from ..support.in_process import ComfyUI, variants_of
from ..support.outputs import conditioning, sampled
from ..support.split_models import THIRDS

STAND_IN = Path(__file__).parents[1] / "packs" / "gguf"
REAL = Path(os.environ.get("MULTIGPU_PACKS", "")) / "ComfyUI-GGUF"
EXPECTED = json.loads((Path(__file__).parents[1] / "data" / "nodes.json").read_text())["nodes"]
LTX_BLOCKS = 5
NODE_IDS = [node_id for node_id in EXPECTED if "GGUF" in node_id]


@pytest.fixture(scope="module", params=["stand-in", "real"])
def pack(request: pytest.FixtureRequest, started_comfyui: ComfyUI) -> str:
    """The pack, loaded as ComfyUI loads it, and its variants."""
    folder = {"stand-in": STAND_IN, "real": REAL}[request.param]
    if not folder.is_dir():
        pytest.skip("MULTIGPU_PACKS names no folder with the real ComfyUI-GGUF")
    variants_of(started_comfyui, folder, "gguf")
    write_gguf_files(started_comfyui.models / "diffusion_models")
    lora = tiny_models.lora_weights(tiny_models.flux_weights(SHAPE), ("_blocks.",))
    tiny_models.write(started_comfyui.models / "loras" / "gguf.safetensors", lora)
    return str(request.param)


def _whole(comfyui: ComfyUI, file: str) -> Any:
    return comfyui.run("UnetLoaderGGUF", unet_name=f"{file}.gguf")[0]


def _split(comfyui: ComfyUI, file: str, **inputs: Any) -> Any:
    node = "UnetLoaderGGUFDisTorch2MultiGPU"
    return comfyui.run(node, unet_name=f"{file}.gguf", **{"compute_device": "npu:0", **THIRDS, **inputs})[0]


def _with_lora(comfyui: ComfyUI, model: Any, strength: float) -> Any:
    return comfyui.run("LoraLoaderModelOnly", model=model, lora_name="gguf.safetensors", strength_model=strength)[0]


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_every_node_of_old_workflows_is_there_with_its_inputs_in_order(
    comfyui: ComfyUI, pack: str, node_id: str
) -> None:
    inputs = comfyui.nodes.NODE_CLASS_MAPPINGS[node_id].INPUT_TYPES()
    ours = [*inputs.get("required", {}), *inputs.get("optional", {})]
    expected = [entry["name"] for entry in EXPECTED[node_id]["inputs"]]
    assert ours[: len(expected)] == expected


@pytest.mark.parametrize("file", FILES)
def test_a_split_quantised_model_makes_the_picture_of_one_device(comfyui: ComfyUI, pack: str, file: str) -> None:
    whole = _whole(comfyui, file)
    expected = sampled(comfyui, whole)
    with_lora = sampled(comfyui, _with_lora(comfyui, whole, 0.7))
    stronger = sampled(comfyui, _with_lora(comfyui, whole, 1.4))
    assert expected.isfinite().all() and not torch.equal(expected, with_lora)
    comfyui.reset()

    split = _split(comfyui, file)
    assert torch.equal(sampled(comfyui, split), expected)
    assert torch.equal(sampled(comfyui, _with_lora(comfyui, split, 0.7)), with_lora)
    assert torch.equal(sampled(comfyui, _with_lora(comfyui, split, 1.4)), stronger)
    assert torch.equal(sampled(comfyui, split), expected), "without the LoRA again it is the first picture"


@pytest.fixture
def ltx(comfyui: ComfyUI, pack: str) -> str:
    """The file of a small LTX-Video, with the names of its weights that published files have."""
    sizes = {"attention_head_dim": 4, "num_attention_heads": 32, "cross_attention_dim": 128, "num_layers": LTX_BLOCKS}
    with torch.inference_mode(False):
        model = replace(ARCHITECTURES["LTX-Video"], small=sizes).tiny().diffusion_model
    write_gguf(
        comfyui.models / "diffusion_models" / "ltx.gguf", "ltxv", model.state_dict(), gguf.GGMLQuantizationType.Q8_0
    )
    return "ltx"


def _frames(comfyui: ComfyUI, model: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    prompt = [[torch.randn(1, 8, 4096, generator=generator), {"attention_mask": torch.ones(1, 8)}]]
    latent = {"samples": torch.zeros(1, 128, 2, 4, 4)}
    (result,) = comfyui.nodes.common_ksampler(model, 5, 1, 1.0, "euler", "simple", prompt, prompt, latent)
    samples: torch.Tensor = result["samples"]
    return samples


@pytest.mark.parametrize("strategy", ["interleave", "relay"])
def test_the_transformer_blocks_of_a_quantised_ltx_video_are_split(comfyui: ComfyUI, ltx: str, strategy: str) -> None:
    whole = _whole(comfyui, ltx)
    expected = _frames(comfyui, whole)
    assert expected.isfinite().all() and expected.std() > 0
    comfyui.reset()
    split = _split(comfyui, ltx, expert_mode_allocations="npu:0,75%;npu:1,25%", strategy=strategy)
    assert torch.equal(_frames(comfyui, split), expected)
    plan = split.multigpu_placement.distribution.residency().plan
    parts = [each for each in plan.placements if "transformer_blocks" in each.block.name]
    blocks = dict.fromkeys(each.block.whole_name for each in parts)
    assert [*blocks] == [f"diffusion_model.transformer_blocks.{index}" for index in range(LTX_BLOCKS)]
    assert {each.device for each in parts} == {"npu:0", "npu:1"}


@pytest.mark.parametrize("name", ["LTX-Video", "LTX-2, video and audio"])
def test_the_header_of_an_ltx_file_in_gguf_has_the_blocks_of_the_live_model(
    comfyui: ComfyUI, tmp_path: Path, name: str
) -> None:
    model = ARCHITECTURES[name].real().diffusion_model
    write_gguf_header(
        tmp_path / "ltx.gguf", "ltxv", {key: value.shape for key, value in sorted(model.state_dict().items())}
    )
    of_file, live = inventory_of_file(tmp_path / "ltx.gguf"), inventory_of_module(model)
    blocks, of_header = (
        [(block.name, block.size_bytes) for block in inventory.blocks if block.kind is not BlockKind.HEAD]
        for inventory in (live, of_file)
    )
    assert sum(name.startswith("transformer_blocks.") for name, _ in blocks) == len(model.transformer_blocks)
    assert of_header == blocks and of_file.head_bytes == live.head_bytes


def test_weights_are_stored_and_moved_quantised(comfyui: ComfyUI, pack: str) -> None:
    split = _split(comfyui, "q8_0")
    sampled(comfyui, split)
    residency = split.multigpu_placement.distribution.residency()
    held = {name: size for name, size in residency.bytes_by_device.items() if name != "cpu"}
    assert comfyui.held_bytes() == [held["npu:0"] + residency.staging_bytes, held["npu:1"], 0]
    offloaded = [placement.block for placement in residency.plan.offloaded]
    assert residency.step_transfer_bytes == sum(block.size_bytes for block in offloaded)
    values = sum(split.model.get_parameter(name).shape.numel() for block in offloaded for name in block.parameters)
    assert residency.step_transfer_bytes < 1.2 * values, "about one byte a weight"


def test_quantised_tensors_keep_what_they_know_about_themselves(comfyui: ComfyUI, pack: str) -> None:
    split = _split(comfyui, "q4_k")
    sampled(comfyui, _with_lora(comfyui, split, 0.7))
    weight = split.model.diffusion_model.double_blocks[1].img_attn.qkv.weight
    assert weight.tensor_type == gguf.GGMLQuantizationType.Q4_K
    assert tuple(weight.tensor_shape) == (768, 256) and weight.patches
    split.detach()
    weight = split.model.diffusion_model.double_blocks[1].img_attn.qkv.weight
    assert weight.tensor_type == gguf.GGMLQuantizationType.Q4_K and not weight.patches
    assert comfyui.held_bytes() == [0, 0, 0]


def test_the_first_generation_s_switch_fills_other_cards_before_the_cpu(comfyui: ComfyUI, pack: str) -> None:
    node = "UnetLoaderGGUFDisTorchMultiGPU"
    inputs = {"unet_name": "q8_0.gguf", "device": "npu:0", "virtual_vram_gb": 0.002, "expert_mode_allocations": ""}
    for use_other_vram, donor in ((True, "npu:1"), (False, "cpu")):
        (split,) = comfyui.run(node, use_other_vram=use_other_vram, **inputs)
        sampled(comfyui, split)
        assert set(split.multigpu_placement.distribution.bytes_by_device()) == {"npu:0", donor}


def test_a_whole_quantised_model_goes_to_the_device_of_the_node(comfyui: ComfyUI, pack: str) -> None:
    expected = sampled(comfyui, _whole(comfyui, "q8_0"))
    comfyui.reset()
    (model,) = comfyui.run("UnetLoaderGGUFMultiGPU", unet_name="q8_0.gguf", device="npu:2")
    assert torch.equal(sampled(comfyui, model), expected)
    assert comfyui.held_bytes()[:2] == [0, 0] and comfyui.held_bytes()[2] > 0


@pytest.mark.parametrize("node", ["UnetLoaderGGUFMultiGPU", "UnetLoaderGGUFDisTorch2MultiGPU"])
def test_core_s_own_device_node_moves_a_model_that_its_loader_cannot_load_again(
    comfyui: ComfyUI, pack: str, node: str
) -> None:
    """ComfyUI leaves a model where it is unless it can be loaded afresh, and the pack's loader does not say how."""
    _needs(comfyui, "SelectModelDevice")
    whole = _whole(comfyui, "q8_0")
    expected, with_lora = sampled(comfyui, whole), sampled(comfyui, _with_lora(comfyui, whole, 0.7))
    assert str(comfyui.run("SelectModelDevice", model=whole, device="gpu:1")[0].load_device) == "npu:0"
    del whole
    comfyui.reset()
    inputs = THIRDS if "DisTorch" in node else {"device": "npu:0"}
    (model,) = comfyui.run(node, unet_name="q8_0.gguf", **inputs)
    for prepared, picture in ((model, expected), (_with_lora(comfyui, model, 0.7), with_lora)):
        (moved,) = comfyui.run("SelectModelDevice", model=prepared, device="gpu:2")
        assert str(moved.load_device) == "npu:2" and moved.model is not model.model
        assert torch.equal(sampled(comfyui, moved), picture)
    assert comfyui.held_bytes()[2] > 0


def test_core_s_cfg_split_works_on_a_quantised_model(comfyui: ComfyUI, pack: str) -> None:
    _needs(comfyui, "MultiGPU_WorkUnits")
    (model,) = comfyui.run("UnetLoaderGGUFMultiGPU", unet_name="q8_0.gguf", device="npu:0")
    expected = _guided(comfyui, model)
    comfyui.machine.reset_peaks()
    (doubled,) = comfyui.run("MultiGPU_WorkUnits", model=model, max_gpus=2)
    assert [str(each.load_device) for each in doubled.get_additional_models_with_key("multigpu")] == ["npu:1"]
    # Each card computes a batch of one where one card computes a batch of two, which rounds otherwise.
    assert torch.allclose(_guided(comfyui, doubled), expected, atol=0.1)
    assert comfyui.machine.devices[1].peak_bytes > 0


def _needs(comfyui: ComfyUI, node: str) -> None:
    if node not in comfyui.nodes.NODE_CLASS_MAPPINGS:
        pytest.skip(f"this ComfyUI has no {node}")


def _guided(comfyui: ComfyUI, model: Any) -> torch.Tensor:
    """With a guidance that makes ComfyUI compute cond and uncond."""
    latent = {"samples": torch.zeros(1, 16, 4, 4)}
    prompt = conditioning()
    (result,) = comfyui.nodes.common_ksampler(model, 5, 1, 4.0, "euler", "simple", prompt, prompt, latent)
    samples: torch.Tensor = result["samples"]
    return samples


def test_the_stand_in_has_the_inputs_and_outputs_of_the_real_pack(comfyui: ComfyUI, pack: str) -> None:
    """Run with both packs, it compares each with the list of old nodes: neither can drift without a failure."""
    for node_id, loader in comfyui.nodes.NODE_CLASS_MAPPINGS.items():
        if not node_id.endswith(("LoaderGGUF", "LoaderGGUFAdvanced")):
            continue
        names = [*loader.INPUT_TYPES()["required"]]
        expected = [entry["name"] for entry in EXPECTED[f"{node_id}MultiGPU"]["inputs"]]
        assert names == [name for name in expected if name != "device"], node_id
        assert list(loader.RETURN_TYPES) == EXPECTED[f"{node_id}MultiGPU"]["outputs"]
