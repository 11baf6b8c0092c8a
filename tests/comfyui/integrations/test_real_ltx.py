"""The real ComfyUI-LTXVideo, of 2024 or of today, where MULTIGPU_PACKS names a folder that holds it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from ..support.in_process import ComfyUI
from ..support.made_up_packs import in_use, load_pack, module_of, weights_of
from ..support.outputs import sampled
from ..support.split_models import THIRDS


def test_ltx_checkpoints_go_to_their_device_or_are_split(comfyui: ComfyUI) -> None:
    load_pack(comfyui, "ComfyUI-LTXVideo", "ltx")
    if "LowVRAMCheckpointLoader" not in comfyui.nodes.NODE_CLASS_MAPPINGS:
        pytest.skip("this version of ComfyUI-LTXVideo has no such loader")
    whole = comfyui.run("LowVRAMCheckpointLoader", ckpt_name="flux.safetensors")[0]
    expected = sampled(comfyui, whole)
    del whole
    comfyui.reset()
    outputs = comfyui.run("LowVRAMCheckpointLoaderMultiGPU", ckpt_name="flux.safetensors", device="npu:1")
    assert {str(getattr(each, "patcher", each).load_device) for each in outputs} == {"npu:1"}
    assert torch.equal(sampled(comfyui, outputs[0]), expected)
    split = comfyui.run("LowVRAMCheckpointLoaderDisTorch2MultiGPU", ckpt_name="flux.safetensors", **THIRDS)[0]
    assert torch.equal(sampled(comfyui, split), expected)


def test_ltx_s_loader_of_2024_loads_model_and_vae_on_its_device(comfyui: ComfyUI) -> None:
    load_pack(comfyui, "ComfyUI-LTXVideo", "ltx")
    if "LTXVLoader" not in comfyui.nodes.NODE_CLASS_MAPPINGS:
        pytest.skip("this version of ComfyUI-LTXVideo has no such loader")
    module = module_of(comfyui, "LTXVLoader")
    heads = {"attention_head_dim": 8, "num_attention_heads": 2, "cross_attention_dim": 16, "caption_channels": 32}
    kind = {"activation_fn": "gelu-approximate", "qk_norm": "rms_norm", "standardization_norm": "rms_norm"}
    rope = {"positional_embedding_type": "rope", "positional_embedding_theta": 10000.0}
    channels = {"in_channels": 8, "out_channels": 8, "num_layers": 1, "norm_elementwise_affine": False}
    grid = {"positional_embedding_max_pos": [20, 2048, 2048], "timestep_scale_multiplier": 1000}
    transformer = {**heads, **kind, **rope, **grid, **channels}
    blocks = {"blocks": [["res_x", 1], ["compress_all", 1]], "encoder_base_channels": 8, "decoder_base_channels": 8}
    vae = {"_class_name": "CausalVideoAutoencoder", "dims": 3, "in_channels": 3, "out_channels": 3, "patch_size": 4}
    vae |= {"latent_channels": 8, "latent_log_var": "uniform", "use_quant_conv": False, "norm_layer": "pixel_norm"}
    vae |= blocks
    parts = {
        "model.diffusion_model.": module.Transformer3DModel.from_config(transformer),
        "vae.": module.CausalVideoAutoencoder.from_config(dict(vae)),
    }
    weights = {prefix + name: value for prefix, part in parts.items() for name, value in weights_of(part).items()}
    config = json.dumps({"transformer": transformer, "vae": vae})
    save_file(weights, comfyui.models / "checkpoints" / "ltxv.safetensors", metadata={"config": config})
    model, decoder = comfyui.run("LTXVLoaderMultiGPU", ckpt_name="ltxv.safetensors", dtype="float32", device="npu:1")
    assert str(model.load_device) == str(decoder.device) == "npu:1"
    assert in_use(decoder.first_stage_model) == {"npu:1"}
    assert in_use(model.model) <= {"npu:1", "cpu"} and comfyui.held_bytes()[0] == 0
