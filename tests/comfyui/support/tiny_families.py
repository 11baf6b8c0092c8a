"""Tiny model files of the families that the examples are for, under the names that the examples have for them.

Each diffusion model is built by ComfyUI's own class in a small shape. Where ComfyUI takes a size for granted, because
the published models all have it, `shrink_families` tells it another; what it recognises files by, its loaders, classes
and tokenizers stay the real ones. Every text encoder is real but small; VAEs are those of `tiny_files`.
"""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import sentencepiece
import torch
from torch import Tensor

from multigpu.multigpu_core.provisioning import tiny_models

from .architectures.unets import SDXL as SDXL_SIZES
from .architectures.videos import HUNYUAN_VIDEO
from .tiny_files import CLIP_WIDTH, T5_WIDTH, text_encoders, under, video_vae, weights_for

HEAD = 128
ENCODER = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4}
QWEN = ENCODER | {"num_attention_heads": 4, "num_key_value_heads": 4}  # 512 key biases tell this one by its size
SEEING = {"hidden_size": 64, "intermediate_size": 64, "num_heads": 1, "num_layers": 1}
LLAMA = ENCODER | {"num_attention_heads": 1, "num_key_value_heads": 1}
QWEN_IMAGE = {"num_attention_heads": 1, "joint_attention_dim": QWEN["hidden_size"]}
UMT5 = {"d_model": T5_WIDTH, "d_ff": 16, "d_kv": 16, "num_heads": 1, "num_layers": 2, "vocab_size": 512}
T5_XXL_MARK = {"encoder.block.23.layer.1.DenseReluDense.wi_1.weight": torch.zeros(10240, 1)}

SDXL_BASE = SDXL_SIZES | {
    "model_channels": 32, "transformer_depth": [0, 0, 1, 1, 1, 1], "transformer_depth_middle": 1,
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1], "context_dim": 2 * CLIP_WIDTH,
    "adm_in_channels": CLIP_WIDTH + 6 * 256,
}  # fmt: skip
SDXL_REFINER = SDXL_BASE | {
    "num_res_blocks": [2] * 4, "channel_mult": (1, 2, 4, 4), "transformer_depth": [0, 0, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0], "context_dim": CLIP_WIDTH,
    "adm_in_channels": CLIP_WIDTH + 5 * 256,
}  # fmt: skip
RECOGNISED_BY = ("model_channels", "use_linear_in_transformer", "transformer_depth", "context_dim", "adm_in_channels")

LTX_TRANSFORMER = {
    "num_attention_heads": 1, "attention_head_dim": 64, "cross_attention_dim": 64, "caption_channels": T5_WIDTH,
    "num_layers": 2,
}  # fmt: skip
_LTX_BLOCKS = [["res_x", {"num_layers": 1}], *[["compress_all", {}], ["res_x", {"num_layers": 1}]] * 3]
LTX_VAE = {
    "dims": 3, "latent_channels": 128, "encoder_blocks": _LTX_BLOCKS, "decoder_blocks": _LTX_BLOCKS,
    "patch_size": 4, "norm_layer": "pixel_norm", "latent_log_var": "uniform", "encoder_base_channels": 8,
    "decoder_base_channels": 8, "spatial_padding_mode": "zeros",
}  # fmt: skip


def shrink_families(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let this process's ComfyUI, until `patch` is undone, take the sizes of these files for granted."""
    supported = importlib.import_module("comfy.supported_models")
    for name, sizes in (("SDXL", SDXL_BASE), ("SDXLRefiner", SDXL_REFINER)):
        known = {key: sizes[key] for key in RECOGNISED_BY}
        patch.setattr(getattr(supported, name), "unet_config", known | {"use_temporal_attention": False})
    detection = importlib.import_module("comfy.model_detection")
    detect, assumed = detection.detect_unet_config, {"qwen_image": QWEN_IMAGE, "hunyuan_video": {"vec_in_dim": 64}}

    def detect_small(*args: Any, **options: Any) -> Any:
        found = detect(*args, **options)
        return found and found | assumed.get(found.get("image_model"), {})

    patch.setattr(detection, "detect_unet_config", detect_small)
    llama, vision = (importlib.import_module(f"comfy.text_encoders.{name}") for name in ("llama", "qwen_vl"))
    patch.setattr(llama, "Qwen25_7BVLI_Config", partial(llama.Qwen25_7BVLI_Config, **QWEN))
    patch.setattr(llama, "Llama2Config", partial(llama.Llama2Config, **LLAMA))
    tower = vision.Qwen2VLVisionTransformer
    patch.setattr(vision, "Qwen2VLVisionTransformer", lambda **sizes: tower(**sizes | SEEING))
    wan = importlib.import_module("comfy.text_encoders.wan")
    config = json.loads(Path(wan.__file__).with_name("umt5_config_xxl.json").read_text())
    (folder / "umt5_config_xxl.json").write_text(json.dumps(config | UMT5))
    patch.setattr(wan, "__file__", str(folder / "wan.py"))


def write_families(models: Path) -> None:
    """Write the files under ComfyUI's folder `models`; `shrink_families` comes first."""
    clip_l, clip_g, t5 = text_encoders()
    image_vae, latent_vae = tiny_models.vae_weights(latent_channels=4), video_vae()
    encoders = {"l": clip_l, "g": {name: value for name, value in clip_g.items() if value.dim() > 1 or len(value) > 1}}
    for name, sizes in (("SDXL", SDXL_BASE), ("SDXLRefiner", SDXL_REFINER)):
        _write_sdxl(models, name, sizes, encoders if name == "SDXL" else {"g": encoders["g"]}, image_vae)
    diffusion = {
        "qwen_image_fp8_e4m3fn": _built("qwen_image.model", "QwenImageTransformer2DModel", num_layers=2, **QWEN_IMAGE),
        "hunyuan_video_t2v_720p_bf16": _built("hunyuan_video.model", "HunyuanVideo", **_hunyuan_sizes()),
        "wan2.2_t2v_high_noise_14B_fp8_scaled": tiny_models.wan_weights(tiny_models.WanShape(blocks=2), seed=1),
        "wan2.2_t2v_low_noise_14B_fp8_scaled": tiny_models.wan_weights(tiny_models.WanShape(blocks=2), seed=2),
    }
    for name, weights in diffusion.items():
        tiny_models.write(models / "diffusion_models" / f"{name}.safetensors", weights)
    for name in ("qwen_image_vae", "hunyuan_video_vae_bf16", "wan_2.1_vae"):
        tiny_models.write(models / "vae" / f"{name}.safetensors", latent_vae)
    for name, weights in (("t5xxl_fp16", t5 | T5_XXL_MARK), *_new_encoders()):
        tiny_models.write(models / "text_encoders" / f"{name}.safetensors", weights)
    _write_ltx(models)


def _new_encoders() -> tuple[tuple[str, dict[str, Tensor]], ...]:
    home = "comfy.text_encoders"
    qwen = importlib.import_module(f"{home}.qwen_image").Qwen25_7BVLIModel(dtype=torch.float32)
    llama = importlib.import_module(f"{home}.hunyuan_video").LLAMAModel(dtype=torch.float32)
    umt5 = importlib.import_module(f"{home}.wan").UMT5XXlModel(dtype=torch.float32)
    spiece = {"spiece_model": torch.frombuffer(bytearray(_tokenizer()), dtype=torch.uint8)}
    return (
        ("qwen_2.5_vl_7b_fp8_scaled", weights_for(qwen.transformer)),
        ("llava_llama3_fp8_scaled", weights_for(llama.transformer)),
        ("umt5_xxl_fp8_e4m3fn_scaled", weights_for(umt5.transformer) | T5_XXL_MARK | spiece),
    )


def _tokenizer() -> bytes:
    """A tokenizer for a few words, as the files of UMT5 carry theirs with them."""
    model = io.BytesIO()
    words = iter(["waves around a lighthouse", "a still picture", "the sound of the sea"])
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=words, model_writer=model, vocab_size=40, hard_vocab_limit=False, minloglevel=2,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    return model.getvalue()


def _hunyuan_sizes() -> dict[str, Any]:
    small = {"hidden_size": HEAD, "num_heads": 1, "depth": 1, "depth_single_blocks": 2}
    return HUNYUAN_VIDEO | small | {"vec_in_dim": CLIP_WIDTH, "context_in_dim": LLAMA["hidden_size"]}


def _built(module: str, cls: str, **sizes: Any) -> dict[str, Tensor]:
    """Made-up weights for a diffusion model of ComfyUI."""
    model = getattr(importlib.import_module(f"comfy.ldm.{module}"), cls)
    operations = importlib.import_module("comfy.ops").disable_weight_init
    return weights_for(model(dtype=torch.float32, device="cpu", operations=operations, **sizes))


def _write_sdxl(
    models: Path, family: str, sizes: Mapping[str, Any], encoders: Mapping[str, dict[str, Tensor]], vae: Any
) -> None:
    """A checkpoint, its text encoders renamed as ComfyUI itself does when it saves one."""
    config = getattr(importlib.import_module("comfy.supported_models"), family)
    texts = {
        key: value for name, each in encoders.items() for key, value in under(f"clip_{name}.transformer.", each).items()
    }
    weights = {
        **under("model.diffusion_model.", _built("modules.diffusionmodules.openaimodel", "UNetModel", **sizes)),
        **under("first_stage_model.", vae),
        **config.process_clip_state_dict_for_saving(None, texts),
    }
    name = {"SDXL": "sd_xl_base_1.0", "SDXLRefiner": "sd_xl_refiner_1.0"}[family]
    tiny_models.write(models / "checkpoints" / f"{name}.safetensors", weights)


def _write_ltx(models: Path) -> None:
    """A checkpoint that says its sizes itself, in its metadata, as the published ones do."""
    vae = importlib.import_module("comfy.ldm.lightricks.vae.causal_video_autoencoder").VideoVAE(config=LTX_VAE)
    weights = {
        **under("model.diffusion_model.", _built("lightricks.model", "LTXVModel", **LTX_TRANSFORMER)),
        **under("vae.", weights_for(vae)),
    }
    sizes = {"config": json.dumps({"transformer": LTX_TRANSFORMER, "vae": LTX_VAE})}
    path = models / "checkpoints" / "ltx-video-2b-v0.9.5.safetensors"
    safetensors.torch.save_file({name: value.contiguous() for name, value in weights.items()}, path, sizes)
