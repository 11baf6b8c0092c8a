"""U-Nets and other models that are no plain transformers: real sizes, small ones, and the inputs of a forward."""

from __future__ import annotations

from typing import Any

import torch

from .architecture import Architecture, Draw, Inputs, controlnet, diffusion, vae
from .images import FLUX, picture, renamed

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
UPSCALER = SD15 | {
    "in_channels": 7, "model_channels": 256, "channel_mult": (1, 2, 2, 4), "context_dim": 1024,
    "transformer_depth": [0, 0, 1, 1, 1, 1, 1, 1], "transformer_depth_output": [1] * 9 + [0] * 3,
    "num_classes": 1000, "use_linear_in_transformer": True, "disable_self_attentions": [True, True, True, False],
}  # fmt: skip
SMALL_UNET = {
    "model_channels": 32, "context_dim": 64, "num_res_blocks": [1, 1], "channel_mult": (1, 2),
    "transformer_depth": [1, 1], "transformer_depth_output": [1] * 4,
}  # fmt: skip
SMALL_SDXL = SMALL_UNET | {
    "transformer_depth": [0, 2], "transformer_depth_middle": 2, "transformer_depth_output": [0, 0, 2, 1],
    "adm_in_channels": 64, "num_head_channels": 32,
}  # fmt: skip
UNET_CONTROLNET = {key: value for key, value in SDXL.items() if key not in ("use_temporal_attention", "out_channels")}
IMAGE_VAE = {
    "ddconfig": {
        "double_z": True, "z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
        "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
    },
    "embed_dim": 16,
}  # fmt: skip
SAM_IS_LARGE = "its sizes, and images of 1008 pixels, are fixed in its class"
UNET = ("modules.diffusionmodules.openaimodel", "UNetModel")


def _unet(channels: int, **also: Any) -> Inputs:
    return renamed(picture(channels, **also), timestep="timesteps")


def _frames(draw: Draw) -> dict[str, Any]:
    return {
        "x": draw(2, 8, 8, 8), "timesteps": torch.tensor([5.0, 5.0]), "context": draw(2, 1, 64), "y": draw(2, 64),
        "transformer_options": {}, "num_video_frames": 2, "image_only_indicator": torch.zeros(1, 2),
    }  # fmt: skip


def _stage_c(draw: Draw) -> dict[str, Any]:
    return {
        "x": draw(1, 16, 8, 8), "r": torch.tensor([0.5]), "clip_text": draw(1, 7, 64),
        "clip_text_pooled": draw(1, 1, 64), "clip_img": draw(1, 1, 64), "transformer_options": {},
    }  # fmt: skip


def _stage_b(draw: Draw) -> dict[str, Any]:
    return {
        "x": draw(1, 4, 16, 16), "r": torch.tensor([0.5]), "effnet": draw(1, 16, 4, 4), "clip": draw(1, 1, 64),
        "transformer_options": {},
    }  # fmt: skip


ARCHITECTURES: dict[str, Architecture] = {
    "SD 1.5, SD 2": diffusion(
        *UNET, SD15, SMALL_UNET, _unet(4),
        serves="SD15 SD20 SD21UnclipL SD21UnclipH SD15_instructpix2pix LotusD Stable_Zero123",
    ),
    "SDXL": diffusion(
        *UNET, SDXL, SMALL_SDXL, _unet(4, y=lambda draw: draw(1, 64)),
        serves="SDXL SDXLRefiner SDXL_instructpix2pix SSD1B Segmind_Vega KOALA_700M KOALA_1B",
    ),
    "SD x4 upscaler": diffusion(
        *UNET, UPSCALER, SMALL_UNET | {"disable_self_attentions": [True, False]},
        _unet(7, y=torch.tensor([20])), serves="SD_X4Upscaler",
    ),
    "Stable Video Diffusion": diffusion(
        *UNET, SVD, SMALL_UNET | {"adm_in_channels": 64, "num_head_channels": 32}, _frames,
        serves="SVD_img2vid SV3D_u SV3D_p",
    ),
    "Stable Cascade, stage C": diffusion(
        "cascade.stage_c", "StageC", {},
        {"c_cond": 64, "c_hidden": [64, 64], "nhead": [1, 1], "blocks": [[2, 2], [2, 2]], "c_clip_text": 64,
         "c_clip_text_pooled": 64, "c_clip_img": 64},
        _stage_c, serves="Stable_Cascade_C",
    ),
    "Stable Cascade, stage B": diffusion(
        "cascade.stage_b", "StageB", {},
        {"c_cond": 64, "c_hidden": [32, 32, 64, 64], "nhead": [-1, -1, 1, 1],
         "blocks": [[1, 1, 2, 1], [1, 2, 1, 1]], "c_clip": 64},
        _stage_b, serves="Stable_Cascade_B",
    ),
    "Depth Anything 3": diffusion(
        "depth_anything_3.model", "DepthAnything3Net", {},
        {"head_dim_in": 64, "head_features": 16, "head_out_channels": (16, 16, 16, 16), "out_layers": (0, 1, 2, 3)},
        lambda draw: {"image": draw(1, 3, 28, 28)}, serves="DepthAnything3",
        parts={"ldm.depth_anything_3.model:Dinov2Model": {
            "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 1,
        }},
        movable_share=0.90,
    ),
    "SAM 3": diffusion(
        "sam3.detector", "SAM3Model", {"image_model": "SAM3"}, serves="SAM3", movable_share=0.93,
        not_computed=SAM_IS_LARGE,
    ),
    "SAM 3.1": diffusion(
        "sam3.detector", "SAM3Model", {"image_model": "SAM31"}, serves="SAM31", movable_share=0.92,
        not_computed=SAM_IS_LARGE,
    ),
    "SDXL ControlNet": controlnet("cldm.cldm", "ControlNet", {"hint_channels": 3, **UNET_CONTROLNET}),
    "Flux ControlNet": controlnet(
        "ldm.flux.controlnet", "ControlNetFlux", FLUX | {"depth": 5, "depth_single_blocks": 10}
    ),
    "image VAE": vae("models.autoencoder", "AutoencoderKL", IMAGE_VAE),
    "Wan 2.1 VAE": vae("wan.vae", "WanVAE", {"dim": 96, "z_dim": 16}),
    "Wan 2.2 VAE": vae("wan.vae2_2", "WanVAE", {"z_dim": 48}),
    "LTX VAE": vae("lightricks.vae.causal_video_autoencoder", "VideoVAE", {"version": 1}),
}  # fmt: skip
