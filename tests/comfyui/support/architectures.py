"""Real architectures of ComfyUI at their real sizes, without weights: what the inventory is checked against.

Each builder imports from ComfyUI when it is called, so that this module can be imported without one, and builds on the
meta device, so that a 14-billion-parameter model costs no memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

Builder = Callable[[], nn.Module]

FLUX = {
    "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096, "hidden_size": 3072,
    "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38, "axes_dim": [16, 56, 56],
    "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
}  # fmt: skip
FLUX2 = FLUX | {
    "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "context_in_dim": 15360, "hidden_size": 6144,
    "mlp_ratio": 3.0, "num_heads": 48, "depth": 8, "depth_single_blocks": 48, "axes_dim": [32, 32, 32, 32],
    "theta": 2000, "patch_size": 1, "qkv_bias": False, "txt_ids_dims": [3], "global_modulation": True,
    "mlp_silu_act": True, "ops_bias": False,
}  # fmt: skip
CHROMA = {key: value for key, value in FLUX.items() if key != "guidance_embed"} | {
    "in_dim": 64, "out_dim": 3072, "hidden_dim": 5120, "n_layers": 5, "vec_in_dim": None,
}  # fmt: skip
HUNYUAN_VIDEO = {key: value for key, value in FLUX.items() if key != "txt_ids_dims"} | {
    "in_channels": 16, "depth": 20, "depth_single_blocks": 40, "theta": 256, "patch_size": [1, 2, 2],
    "byt5": False, "meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
}  # fmt: skip
SDXL = {
    "image_size": 32, "in_channels": 4, "model_channels": 320, "out_channels": 4, "num_res_blocks": [2, 2, 2],
    "channel_mult": (1, 2, 4), "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "context_dim": 2048, "adm_in_channels": 2816,
    "num_classes": "sequential", "num_head_channels": 64, "use_spatial_transformer": True,
    "use_linear_in_transformer": True, "use_temporal_attention": False, "legacy": False,
}  # fmt: skip
SD15 = SDXL | {
    "num_res_blocks": [2, 2, 2, 2], "channel_mult": (1, 2, 4, 4), "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1, "transformer_depth_output": [1] * 9 + [0] * 3, "context_dim": 768,
    "adm_in_channels": None, "num_classes": None, "num_heads": 8, "num_head_channels": -1,
    "use_linear_in_transformer": False,
}  # fmt: skip
SVD = SD15 | {
    "in_channels": 8, "context_dim": 1024, "adm_in_channels": 768, "num_classes": "sequential", "num_heads": -1,
    "num_head_channels": 64, "use_linear_in_transformer": True, "use_temporal_attention": True,
    "use_temporal_resblock": True, "extra_ff_mix_layer": True, "use_spatial_context": True,
    "merge_strategy": "learned_with_images", "video_kernel_size": [3, 1, 1],
}  # fmt: skip
UNET_CONTROLNET = {key: value for key, value in SDXL.items() if key not in ("use_temporal_attention", "out_channels")}
WAN_14B = {"dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40}
IMAGE_VAE = {
    "ddconfig": {
        "double_z": True, "z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
        "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
    },
    "embed_dim": 16,
}  # fmt: skip


def _diffusion(module: str, cls: str, **config: Any) -> Builder:
    """A diffusion model as a patcher holds it: under the attribute `diffusion_model`."""

    def build() -> nn.Module:
        model = getattr(import_module(f"comfy.ldm.{module}"), cls)
        operations = import_module("comfy.ops").disable_weight_init
        wrapper = nn.Module()
        wrapper.diffusion_model = model(device="meta", dtype=torch.bfloat16, operations=operations, **config)
        return wrapper

    return build


def _controlnet(module: str, cls: str, **config: Any) -> Builder:
    def build() -> nn.Module:
        model = getattr(import_module(f"comfy.{module}"), cls)
        operations = import_module("comfy.ops").disable_weight_init
        return model(device="meta", dtype=torch.bfloat16, operations=operations, **config)

    return build


def _text_encoder(module: str, cls: str, config_file: str | None = None) -> Builder:
    """An encoder with the configuration that ComfyUI ships beside it, or else with its own defaults."""

    def build() -> nn.Module:
        home = import_module(f"comfy.{module}")
        config = json.loads((Path(home.__file__).parent / config_file).read_text()) if config_file else {}
        operations = import_module("comfy.ops").disable_weight_init
        return getattr(home, cls)(config, dtype=torch.bfloat16, device="meta", operations=operations)

    return build


def _vae(module: str, cls: str, **config: Any) -> Builder:
    def build() -> nn.Module:
        with torch.device("meta"):
            return getattr(import_module(f"comfy.ldm.{module}"), cls)(**config)

    return build


ARCHITECTURES: dict[str, Builder] = {
    "flux": _diffusion("flux.model", "Flux", **FLUX),
    "flux2": _diffusion("flux.model", "Flux", **FLUX2),
    "chroma": _diffusion("chroma.model", "Chroma", **CHROMA),
    "wan 14B": _diffusion("wan.model", "WanModel", **WAN_14B),
    "wan 14B image to video": _diffusion("wan.model", "WanModel", model_type="i2v", in_dim=36, **WAN_14B),
    "wan vace": _diffusion("wan.model", "VaceWanModel", vace_layers=8, vace_in_dim=96, **WAN_14B),
    "wan speech to video": _diffusion("wan.model", "WanModel_S2V", **WAN_14B),
    "wan animate": _diffusion("wan.model_animate", "AnimateWanModel", in_dim=36, **WAN_14B),
    "qwen image": _diffusion("qwen_image.model", "QwenImageTransformer2DModel"),
    "ltxv": _diffusion("lightricks.model", "LTXVModel"),
    "ltx audio video": _diffusion("lightricks.av_model", "LTXAVModel"),
    "hunyuan video": _diffusion("hunyuan_video.model", "HunyuanVideo", **HUNYUAN_VIDEO),
    "hidream": _diffusion(
        "hidream.model", "HiDreamImageTransformer2DModel", patch_size=2, in_channels=16, out_channels=16,
        caption_channels=[4096, 4096], llama_layers=list(range(32)),
    ),
    "lumina 2": _diffusion(
        "lumina.model", "NextDiT", in_channels=16, dim=2304, n_layers=26, n_heads=24, n_kv_heads=8,
        cap_feat_dim=2304, axes_dims=[32, 32, 32], axes_lens=[300, 512, 512], qk_norm=True,
    ),
    "sd3.5 large": _diffusion(
        "modules.diffusionmodules.mmdit", "MMDiT", in_channels=16, depth=38, input_size=None, qk_norm="rms",
        adm_in_channels=2048, num_patches=36864, pos_embed_max_size=192,
        context_embedder_config={"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 2432}},
    ),
    "auraflow": _diffusion("aura.mmdit", "MMDiT", max_seq=4096),
    "mochi": _diffusion(
        "genmo.joint_model.asymm_models_joint", "AsymmDiTJoint", in_channels=12, hidden_size_x=3072,
        hidden_size_y=1536, num_heads=24, mlp_ratio_x=4.0, use_t5=True, learn_sigma=False, qk_norm=True,
        mlp_ratio_y=4.0, qkv_bias=False, out_bias=True, attn_drop=0.0,
    ),
    "pixart sigma": _diffusion("pixart.pixartms", "PixArtMS", input_size=128, micro_condition=False),
    "cosmos 7B": _diffusion(
        "cosmos.model", "GeneralDIT", max_img_h=240, max_img_w=240, max_frames=128, in_channels=16, out_channels=16,
        patch_spatial=2, patch_temporal=1, model_channels=4096, num_blocks=28, num_heads=32, block_x_format="THWBD",
        use_adaln_lora=True, pos_emb_cls="rope3d", extra_per_block_abs_pos_emb=True, affline_emb_norm=True,
        extra_per_block_abs_pos_emb_type="learnable",
    ),
    "cosmos predict 2": _diffusion(
        "cosmos.predict2", "MiniTrainDIT", max_img_h=240, max_img_w=240, max_frames=128, in_channels=16,
        out_channels=16, patch_spatial=2, patch_temporal=1, model_channels=2048, num_blocks=28, num_heads=16,
        pos_emb_cls="rope3d",
    ),
    "hunyuan dit": _diffusion("hydit.models", "HunYuanDiT", hidden_size=1408, depth=40, mlp_ratio=4.3637),
    "stable cascade": _diffusion("cascade.stage_c", "StageC"),
    "omnigen 2": _diffusion("omnigen.omnigen2", "OmniGen2Transformer2DModel"),
    "kandinsky 5": _diffusion("kandinsky5.model", "Kandinsky5"),
    "ace step": _diffusion("ace.model", "ACEStepTransformer2DModel"),
    "stable audio": _diffusion("audio.dit", "AudioDiffusionTransformer"),
    "sd 1.5": _diffusion("modules.diffusionmodules.openaimodel", "UNetModel", **SD15),
    "sdxl": _diffusion("modules.diffusionmodules.openaimodel", "UNetModel", **SDXL),
    "stable video diffusion": _diffusion("modules.diffusionmodules.openaimodel", "UNetModel", **SVD),
    "sdxl controlnet": _controlnet("cldm.cldm", "ControlNet", hint_channels=3, **UNET_CONTROLNET),
    "flux controlnet": _controlnet(
        "ldm.flux.controlnet", "ControlNetFlux", **FLUX | {"depth": 5, "depth_single_blocks": 10}
    ),
    "t5 xxl": _text_encoder("text_encoders.t5", "T5", "t5_config_xxl.json"),
    "umt5 xxl": _text_encoder("text_encoders.t5", "T5", "umt5_config_xxl.json"),
    "clip l": _text_encoder("clip_model", "CLIPTextModel", "sd1_clip_config.json"),
    "clip g": _text_encoder("clip_model", "CLIPTextModel", "clip_config_bigg.json"),
    "clip vision h": _text_encoder("clip_model", "CLIPVisionModelProjection", "clip_vision_config_h.json"),
    "llama 2 shaped": _text_encoder("text_encoders.llama", "Llama2"),
    "gemma 3 12B": _text_encoder("text_encoders.llama", "Gemma3_12B"),
    "qwen 2.5 vl": _text_encoder("text_encoders.llama", "Qwen25_7BVLI"),
    "image vae": _vae("models.autoencoder", "AutoencoderKL", **IMAGE_VAE),
    "wan vae": _vae("wan.vae", "WanVAE", dim=96, z_dim=16),
    "wan 2.2 vae": _vae("wan.vae2_2", "WanVAE", z_dim=48),
    "ltx vae": _vae("lightricks.vae.causal_video_autoencoder", "VideoVAE", version=1),
}  # fmt: skip
