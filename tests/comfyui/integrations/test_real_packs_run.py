"""The real packs' nodes at work on small made-up weights, where MULTIGPU_PACKS names a folder that holds them.

A pack that fetches its files from a hub is driven to the download, with the device already right.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from multigpu.multigpu_core.provisioning import tiny_models

from ..support.in_process import ComfyUI
from ..support.made_up_packs import (
    devices_at_download,
    in_use,
    load_pack,
    module_of,
    smaller,
    stop_at_downloads,
    weights_of,
    write,
)
from ..support.packs_at_hand import import_pack, real_pack
from ..support.tiny_unet import UNET, small_unet, unet_picture


def test_florence2_runs_on_its_device_and_waits_on_the_offload_device(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_pack(comfyui, "ComfyUI-Florence2", "florence2")
    module = module_of(comfyui, "Florence2ModelLoader")
    _write_florence2(comfyui, module)
    monkeypatch.setattr(module, "AutoProcessor", SimpleNamespace(from_pretrained=lambda *_, **__: MadeUpProcessor()))
    inputs = {"model": "tiny", "precision": "fp32", "attention": "eager"}
    comfyui.nodes.NODE_CLASS_MAPPINGS["Florence2ModelLoaderMultiGPU"].INPUT_TYPES()
    (model,) = comfyui.run("Florence2ModelLoaderMultiGPU", device="npu:1", offload_device="npu:2", **inputs)
    assert in_use(model["model"]) == {"npu:2"}
    comfyui.machine.reset_peaks()
    question = {"text_input": "", "task": "caption", "fill_mask": False, "max_new_tokens": 4, "num_beams": 1}
    image = torch.rand(1, 64, 64, 3)
    _, _, caption, _ = comfyui.run(
        "Florence2Run", image=image, florence2_model=model, do_sample=False, seed=1, **question
    )
    assert caption == "a caption" and in_use(model["model"]) == {"npu:2"}
    assert [device.peak_bytes > 0 for device in comfyui.machine.devices] == [False, True, True]


def _write_florence2(comfyui: ComfyUI, module: ModuleType) -> None:
    modeling = importlib.import_module(f"{module.__package__}.modeling_florence2")
    widths = {
        "model_type": "davit",
        "dim_embed": [8, 16, 32, 64],
        "num_heads": [1, 2, 4, 8],
        "num_groups": [1, 2, 4, 8],
        "depths": [1] * 4,
    }
    positions = {
        "visual_temporal_embedding": {"type": "COSINE", "max_temporal_embeddings": 4},
        "image_pos_embed": {"type": "learned_abs_2d", "max_pos_embeddings": 8},
    }
    text = {"vocab_size": 64, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 64}
    heads = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    wide = dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 32)
    if importlib.import_module("transformers").__version__.startswith("5."):
        pytest.skip("the pack's own configuration class does not work with transformers 5")
    vision = modeling.Florence2VisionConfig(**widths, **positions, projection_dim=32)
    config = modeling.Florence2Config(
        vision_config={**vision.to_dict(), "model_type": "davit"},
        text_config={**text, **heads, **wide},
        vocab_size=64,
        projection_dim=32,
    )
    with torch.inference_mode(False):
        modeling.Florence2ForConditionalGeneration(config).save_pretrained(comfyui.models / "LLM" / "tiny")
    saved = comfyui.models / "LLM" / "tiny" / "config.json"
    written = json.loads(saved.read_text())
    written["vision_config"]["model_type"] = "davit"  # which the pack asks for and does not save
    saved.write_text(json.dumps(written))


class MadeUpProcessor:
    """In the place of a tokenizer and an image processor, whose files are on a hub."""

    def __call__(self, **_: Any) -> Any:
        features = importlib.import_module("transformers").BatchFeature
        return features({"input_ids": torch.tensor([[0, 5, 6, 2]]), "pixel_values": torch.rand(1, 3, 64, 64)})

    def batch_decode(self, tokens: torch.Tensor, **_: Any) -> list[str]:
        return ["<s>a caption</s>"]

    def post_process_generation(self, text: str, task: str, image_size: tuple[int, int]) -> dict[str, str]:
        return {task: "a caption"}


DOWNLOADS = [
    (
        "ComfyUI-Florence2",
        "florence2",
        "DownloadAndLoadFlorence2ModelMultiGPU",
        {"model": "microsoft/Florence-2-base", "precision": "fp32", "attention": "sdpa"},
    ),
    (
        "ComfyUI-HunyuanVideoWrapper",
        "hunyuan",
        "DownloadAndLoadHyVideoTextEncoderMultiGPU",
        {"llm_model": "Kijai/llava-llama-3-8b-text-encoder-tokenizer", "clip_model": "disabled", "precision": "fp16"},
    ),
    (
        "ComfyUI-LTXVideo",
        "ltx",
        "LTXVPromptEnhancerLoaderMultiGPU",
        {"llm_name": "somebody/model", "image_captioner_name": "somebody/captioner"},
    ),
]


@pytest.mark.parametrize(("pack", "integration", "node", "inputs"), DOWNLOADS, ids=[each[2] for each in DOWNLOADS])
def test_a_loader_comes_to_its_download_with_the_device_already_right(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch, pack: str, integration: str, node: str, inputs: dict[str, Any]
) -> None:
    load_pack(comfyui, pack, integration)
    if node not in comfyui.nodes.NODE_CLASS_MAPPINGS:
        pytest.skip(f"this version of {pack} has no such loader")
    stop_at_downloads(monkeypatch)
    for device in ("npu:1", "npu:2"):
        assert devices_at_download(lambda: comfyui.run(node, device=device, **inputs))[0] == device  # noqa: B023


def test_hunyuan_s_model_is_loaded_on_its_device(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    load_pack(comfyui, "ComfyUI-HunyuanVideoWrapper", "hunyuan")
    module = module_of(comfyui, "HyVideoModelLoader")
    sizes = {"hidden_size": 48, "heads_num": 2, "rope_dim_list": [8, 8, 8], "text_states_dim": 32}
    depths = {"mm_double_blocks_depth": 1, "mm_single_blocks_depth": 2}
    build = smaller(monkeypatch, module, "HYVideoDiffusionTransformer", **sizes, **depths)
    file = "hunyuan.safetensors"
    write(comfyui, "diffusion_models", file, weights_of(build(in_channels=16, out_channels=16, guidance_embed=True)))
    inputs = {"base_precision": "fp32", "quantization": "disabled", "load_device": "main_device"}
    (model,) = comfyui.run("HyVideoModelLoaderMultiGPU", model=file, device="npu:1", **inputs)
    transformer = model.model.diffusion_model
    assert in_use(transformer) == {"npu:1"} and str(model.load_device) == "npu:1"
    assert (str(transformer.main_device), str(transformer.offload_device)) == ("npu:1", "cpu")


def test_hunyuan_s_vae_encodes_and_decodes_on_its_device(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    load_pack(comfyui, "ComfyUI-HunyuanVideoWrapper", "hunyuan")
    module = module_of(comfyui, "HyVideoVAELoader")
    original, built = module.AutoencoderKLCausal3D, {"block_out_channels": [32] * 4, "layers_per_block": 1}

    def from_config(config: dict[str, Any]) -> Any:
        return original.from_config({**config, **built})

    monkeypatch.setattr(module, "AutoencoderKLCausal3D", SimpleNamespace(from_config=from_config))
    config = json.loads((real_pack("ComfyUI-HunyuanVideoWrapper") / "configs" / "hy_vae_config.json").read_text())
    file = write(comfyui, "vae", "hunyuan.safetensors", weights_of(from_config(config)))
    (vae,) = comfyui.run("HyVideoVAELoaderMultiGPU", model_name=file, precision="fp32", device="npu:1")
    assert in_use(vae) == {"npu:1"}
    comfyui.machine.reset_peaks()
    tiles = {"enable_vae_tiling": False, "temporal_tiling_sample_size": 64, "spatial_tile_sample_min_size": 256}
    (latent,) = comfyui.run("HyVideoEncode", vae=vae, image=torch.rand(1, 32, 32, 3), auto_tile_size=True, **tiles)
    (image,) = comfyui.run("HyVideoDecode", vae=vae, samples=latent, auto_tile_size=True, **tiles)
    assert image.shape[-1] == 3 and [device.peak_bytes > 0 for device in comfyui.machine.devices] == [
        False,
        True,
        False,
    ]


def test_mmaudio_s_sampler_moves_the_model_to_its_device_and_back(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_pack(comfyui, "ComfyUI-MMAudio", "mmaudio")
    module = module_of(comfyui, "MMAudioModelLoader")
    file = _write_mmaudio(comfyui, monkeypatch, module)
    (model,) = comfyui.run("MMAudioModelLoaderMultiGPU", mmaudio_model=file, base_precision="fp32", device="npu:1")
    seen = []

    def generate(*_: Any, net: nn.Module, feature_utils: nn.Module, **__: Any) -> torch.Tensor:
        seen.append(in_use(net, feature_utils))
        return torch.zeros(1, 1, 8)

    monkeypatch.setattr(module, "generate", generate)  # it encodes the prompt, with files that are on a hub
    prompt = {"seed": 1, "duration": 1.0, "steps": 1, "cfg": 1.0, "prompt": "", "negative_prompt": ""}
    inputs = {"mmaudio_model": model, "feature_utils": nn.Linear(2, 2), "mask_away_clip": False, "force_offload": True}
    comfyui.run("MMAudioSampler", **inputs, **prompt)
    assert seen == [{"npu:1"}] and in_use(model) == {"cpu"}
    comfyui.run("MMAudioSamplerMultiGPU", **inputs, **prompt, device="npu:2")
    assert seen[1:] == [{"npu:2"}]


def _write_mmaudio(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> str:
    build = smaller(monkeypatch, module, "MMAudio", depth=2, fused_depth=1, text_dim=16, clip_dim=16, sync_dim=16)
    lengths = {"latent_seq_len": 345, "clip_seq_len": 64, "sync_seq_len": 192}
    model = build(latent_dim=40, hidden_dim=448, num_heads=7, **lengths)
    return write(comfyui, "mmaudio", "mmaudio_44k.safetensors", weights_of(model))


def test_mmaudio_s_features_come_to_their_download_on_the_device(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_pack(comfyui, "ComfyUI-MMAudio", "mmaudio")
    made: list[nn.Module] = []
    monkeypatch.setattr(
        module_of(comfyui, "MMAudioSampler"), "Synchformer", lambda: made.append(nn.Linear(2, 2)) or made[-1]
    )
    file = write(comfyui, "mmaudio", "features.safetensors", weights_of(nn.Linear(2, 2)))
    stop_at_downloads(monkeypatch)
    inputs = {"vae_model": file, "synchformer_model": file, "clip_model": file, "mode": "44k", "precision": "fp32"}
    found = devices_at_download(lambda: comfyui.run("MMAudioFeatureUtilsLoaderMultiGPU", device="npu:2", **inputs))
    assert found[0] == "npu:2" and in_use(*made) == {"npu:2"}


def test_nf4_checkpoints_are_loaded_for_their_device(comfyui: ComfyUI) -> None:
    """As far as the pack goes without CUDA: it quantises and computes on CUDA devices only."""
    load_pack(comfyui, "ComfyUI_bitsandbytes_NF4", "nf4")
    model, clip, vae = comfyui.run("CheckpointLoaderNF4MultiGPU", ckpt_name="flux.safetensors", device="npu:1")
    assert {str(each.load_device) for each in (model, clip.patcher, vae.patcher)} == {"npu:1"}
    linear = model.model.diffusion_model.double_blocks[0].img_attn.qkv
    assert type(linear.weight).__name__ == "ForgeParams4bit" and in_use(model.model) == {"cpu"}


def test_pulid_s_model_is_one_that_apply_can_move(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    load_pack(comfyui, "PuLID_ComfyUI", "pulid")
    build = smaller(monkeypatch, module_of(comfyui, "PulidModelLoader"), "IDEncoder", width=32, context_dim=16)
    weights = {f"image_proj.{name}": value for name, value in weights_of(build()).items()}
    file = write(comfyui, "pulid", "pulid.safetensors", weights | {"ip_adapter.1.to_k.weight": torch.zeros(4, 16)})
    (model,) = comfyui.run("PulidModelLoaderMultiGPU", pulid_file=file, device="npu:1")
    assert in_use(model.to("npu:1")) == {"npu:1"}


def test_pulid_s_eva_clip_comes_to_its_download_with_the_device_already_right(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_pack(comfyui, "PuLID_ComfyUI", "pulid")
    factory = importlib.import_module(f"{module_of(comfyui, 'PulidEvaClipLoader').__package__}.eva_clip.factory")
    monkeypatch.setattr(factory, "CustomCLIP", lambda **_: nn.Linear(2, 2))  # it has 0.4 billion weights
    stop_at_downloads(monkeypatch)
    assert devices_at_download(lambda: comfyui.run("PulidEvaClipLoaderMultiGPU", device="npu:1"))[0] == "npu:1"


def test_pulid_s_face_analysis_is_asked_for_the_card(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    load_pack(comfyui, "PuLID_ComfyUI", "pulid")
    module, asked = module_of(comfyui, "PulidInsightFaceLoader"), []

    class FaceAnalysis:
        """In the place of insightface's, which would download its models."""

        def __init__(self, **options: Any) -> None:
            asked.append(options.get("provider_options"))

        def prepare(self, **_: Any) -> None: ...

    monkeypatch.setattr(module, "FaceAnalysis", FaceAnalysis)
    comfyui.run("PulidInsightFaceLoaderMultiGPU", provider="CUDA", device="npu:1")
    comfyui.run("PulidInsightFaceLoader", provider="CUDA")
    assert asked == [[{"device_id": 1}], None] and module.FaceAnalysis is FaceAnalysis


def test_xflux_s_controlnet_is_loaded_and_fed_on_its_device(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    load_pack(comfyui, "x-flux-comfyui", "xflux")
    module = module_of(comfyui, "LoadFluxControlNet")
    sizes = {"hidden_size": 48, "num_heads": 2, "axes_dim": [8, 8, 8], "vec_in_dim": 16, "context_in_dim": 32}
    spec = module.configs["flux-dev"]
    monkeypatch.setitem(module.configs, "flux-dev", replace(spec, params=replace(spec.params, **sizes)))
    folder = comfyui.models / "xlabs" / "controlnets"
    monkeypatch.setattr(module, "dir_xlabs_controlnets", str(folder))
    tiny_models.write(folder / "canny.safetensors", weights_of(module.load_controlnet("flux-dev", "cpu")))
    node = "LoadFluxControlNetMultiGPU"
    (controlnet,) = comfyui.run(node, model_name="flux-dev", controlnet_path="canny.safetensors", device="npu:1")
    assert in_use(controlnet["model"]) == {"npu:1"}
    ((condition,),) = comfyui.run(
        "ApplyFluxControlNet", controlnet=controlnet, image=torch.rand(1, 8, 8, 3), strength=1
    )
    assert str(condition["img"].device) == "npu:1"


def _ip_adapter(embedding: int = 8, context: int = 16) -> dict[str, dict[str, Any]]:
    """A small one, as the pack's loader gives it; the UNet's middle block is twice as wide as the others."""
    generator = torch.Generator().manual_seed(6)

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) / 4

    proj = {"proj.weight": made(4 * context, embedding), "proj.bias": made(4 * context)}
    widths = {number: 64 if number == 31 else 32 for number in range(1, 33, 2)}
    layers = {f"{n}.to_{which}_ip.weight": made(width, context) for n, width in widths.items() for which in "kv"}
    return {"image_proj": {**proj, "norm.weight": made(context), "norm.bias": made(context)}, "ip_adapter": layers}


@pytest.mark.parametrize("follows", [True, False], ids=["with our integration", "without it"])
def test_ip_adapters_work_with_models_on_any_device(comfyui: ComfyUI, follows: bool) -> None:
    if follows:
        load_pack(comfyui, "ComfyUI_IPAdapter_plus", "ipadapter")
    else:
        import_pack(comfyui, real_pack("ComfyUI_IPAdapter_plus"))
    embeds = torch.randn(1, 8, generator=torch.Generator().manual_seed(9))
    inputs = {
        "pos_embed": embeds,
        "neg_embed": embeds * 0,
        "weight": 0.9,
        "weight_type": "linear",
        "start_at": 0.0,
        "end_at": 1.0,
    }

    def adapted(loader: str, device: dict[str, Any]) -> torch.Tensor:
        (model,) = comfyui.run(loader, **UNET, **device)
        plain = unet_picture(comfyui, model)
        node = comfyui.nodes.NODE_CLASS_MAPPINGS["IPAdapterEmbeds"]
        options = {"ipadapter": _ip_adapter(), "embeds_scaling": "V only"}
        (changed, *_) = getattr(node(), node.FUNCTION)(model=model, **inputs, **options)
        made = unet_picture(comfyui, changed)
        assert not torch.equal(made, plain)
        return made

    thirds = {"expert_mode_allocations": "npu:1,30%;npu:2,30%;cpu,40%"}
    with small_unet(comfyui):
        expected = adapted("UNETLoader", {})
        comfyui.reset()
        for split in (None, thirds, {"expert_mode_allocations": "npu:1,50%;npu:2,50%", "strategy": "relay"}):
            node = "UNETLoaderMultiGPU" if split is None else "UNETLoaderDisTorch2MultiGPU"
            device = {"device": "npu:1"} if split is None else {"compute_device": "npu:1", **split}
            assert torch.equal(adapted(node, device), expected)
            comfyui.reset()
