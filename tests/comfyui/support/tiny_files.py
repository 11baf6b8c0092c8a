"""Tiny model files of every kind that core's loaders read, in the folders where ComfyUI looks for them.

Diffusion models and VAEs have tiny shapes of their own. The sizes of text and vision encoders are fixed by
configuration files of ComfyUI: `shrink_encoders` puts smaller ones in their place; classes, tokenizers and key names
stay the real ones.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from multigpu.multigpu_core.provisioning import tiny_models

CLIP_WIDTH = 64
T5_WIDTH = 4096  # Stable Diffusion 3 joins its encoders' outputs at this width
PROMPT = "the of and"  # words so frequent that T5 counts them among its first tokens
T5_VOCABULARY = 512

_CLIP = {"hidden_size": CLIP_WIDTH, "intermediate_size": 128, "num_attention_heads": 4, "projection_dim": CLIP_WIDTH}
_SMALLER: dict[str, tuple[str, dict[str, Any]]] = {
    "sd1_clip_config.json": ("comfy.sd1_clip", _CLIP | {"num_hidden_layers": 3}),
    "clip_config_bigg.json": ("comfy.sdxl_clip", _CLIP | {"num_hidden_layers": 3}),
    "clip_vision_config_vitl.json": ("comfy.clip_vision", _CLIP | {"image_size": 28, "num_hidden_layers": 4}),
    "t5_config_xxl.json": (
        "comfy.text_encoders.sd3_clip",
        {"d_model": T5_WIDTH, "d_ff": 16, "d_kv": 16, "num_heads": 1, "num_layers": 3, "vocab_size": T5_VOCABULARY},
    ),
}
# ComfyUI tells a big encoder from a small one by a layer that only the big one has.
_CLIP_G_MARK = "text_model.encoder.layers.30.mlp.fc1.weight"
_VISION_MARK = "vision_model.encoder.layers.22.layer_norm1.weight"
_TOKENIZERS = {"sd1_tokenizer": "comfy.sd1_clip", "t5_tokenizer": "comfy.text_encoders.sd3_clip"}


def shrink_encoders(folder: Path) -> None:
    """Let this process's ComfyUI read the configurations of its encoders from `folder`, where smaller ones are written.

    Its modules look for them beside their own file, so that is what they are told another place of.
    """
    folder.mkdir()
    homes = {name: Path(str(importlib.import_module(name).__file__)).parent for name, _ in _SMALLER.values()}
    for file, (module, changes) in _SMALLER.items():
        config = json.loads((homes[module] / file).read_text())
        (folder / file).write_text(json.dumps(config | changes))
    for tokenizer, module in _TOKENIZERS.items():
        (folder / tokenizer).symlink_to(homes[module] / tokenizer, target_is_directory=True)
    for name in homes:
        importlib.import_module(name).__file__ = str(folder / "smaller.py")


def write_tiny_files(models: Path) -> None:
    """Write one model of every kind under ComfyUI's folder `models`; `shrink_encoders` comes first."""
    shape = tiny_models.FluxShape(double_blocks=2, single_blocks=4, context_dim=T5_WIDTH, pooled_dim=CLIP_WIDTH)
    flux, vae = tiny_models.flux_weights(shape), tiny_models.vae_weights()
    clip_l, clip_g, t5 = text_encoders()
    tiny_models.write(models / "diffusion_models" / "flux.safetensors", flux)
    tiny_models.write(models / "loras" / "flux.safetensors", tiny_models.lora_weights(flux))
    tiny_models.write(models / "vae" / "vae.safetensors", video_vae())
    for name, weights in (("clip_l", clip_l), ("clip_g", clip_g), ("t5xxl", t5)):
        tiny_models.write(models / "text_encoders" / f"{name}.safetensors", weights)
    tiny_models.write(models / "clip_vision" / "vision.safetensors", _vision_encoder())
    tiny_models.write(models / "controlnet" / "flux.safetensors", _controlnet(shape))
    checkpoint = {
        **under("model.diffusion_model.", flux),
        **under("vae.", vae),
        **under("text_encoders.clip_l.transformer.", clip_l),
        **under("text_encoders.t5xxl.transformer.", t5),
    }
    tiny_models.write(models / "checkpoints" / "flux.safetensors", checkpoint)
    diffusers = models / "diffusers" / "flux"
    tiny_models.write(diffusers / "unet" / "diffusion_pytorch_model.safetensors", flux)
    tiny_models.write(diffusers / "vae" / "diffusion_pytorch_model.safetensors", vae)
    tiny_models.write(diffusers / "text_encoder" / "model.safetensors", clip_l)
    (diffusers / "model_index.json").write_text("{}")


def text_encoders() -> tuple[dict[str, Tensor], ...]:
    classes = (
        importlib.import_module("comfy.sd1_clip").SDClipModel,
        importlib.import_module("comfy.sdxl_clip").SDXLClipG,
        importlib.import_module("comfy.text_encoders.sd3_clip").T5XXLModel,
    )
    clip_l, clip_g, t5 = (weights_for(encoder(dtype=torch.float32).transformer) for encoder in classes)
    return clip_l, clip_g | {_CLIP_G_MARK: torch.zeros(1)}, t5


def _vision_encoder() -> dict[str, Tensor]:
    clip_vision = importlib.import_module("comfy.clip_vision")
    config = Path(clip_vision.__file__).with_name("clip_vision_config_vitl.json")
    return weights_for(clip_vision.ClipVisionModel(str(config)).model) | {_VISION_MARK: torch.zeros(1)}


def video_vae() -> dict[str, Tensor]:
    """A Wan VAE: unlike a TAESD it has blocks, so that it can be split."""
    vae = importlib.import_module("comfy.ldm.wan.vae").WanVAE(dim=8, z_dim=16, temperal_downsample=[False, True, True])
    return weights_for(vae)


def upscaler_weights() -> dict[str, Tensor]:
    """A compact ESRGAN of two layers that doubles the size."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "body.0.weight": (8, 3, 3, 3),
        "body.0.bias": (8,),
        "body.1.weight": (8,),
        "body.2.weight": (8, 8, 3, 3),
        "body.2.bias": (8,),
        "body.3.weight": (8,),
        "body.4.weight": (12, 8, 3, 3),
        "body.4.bias": (12,),
    }
    return {name: torch.randn(shape, generator=generator) / 10 for name, shape in shapes.items()}


def _controlnet(shape: tiny_models.FluxShape) -> dict[str, Tensor]:
    """A ControlNet of two double blocks, as XLabs publishes them."""
    control = importlib.import_module("comfy.ldm.flux.controlnet").ControlNetFlux(
        in_channels=shape.latent_channels, out_channels=shape.latent_channels, vec_in_dim=shape.pooled_dim,
        context_in_dim=shape.context_dim, hidden_size=shape.hidden_size, mlp_ratio=4.0, num_heads=1, depth=2,
        depth_single_blocks=0, axes_dim=[16, 56, 56], theta=10000, patch_size=2, qkv_bias=True, guidance_embed=True,
        txt_ids_dims=[], dtype=torch.float32, operations=importlib.import_module("comfy.ops").disable_weight_init,
    )  # fmt: skip
    weights = weights_for(control)
    return {name.replace("_norm.weight", "_norm.scale"): value for name, value in weights.items()}


def weights_for(module: nn.Module) -> dict[str, Tensor]:
    """Made-up weights under the names that `module` has; what is no floating-point value stays as it is."""
    generator = torch.Generator().manual_seed(7)

    def made(name: str, like: Tensor) -> Tensor:
        if not like.is_floating_point():
            return like
        if like.dim() < 2:
            return ("norm" in name and name.endswith("weight")) + 0.02 * torch.randn(like.shape, generator=generator)
        return torch.randn(like.shape, generator=generator) / math.sqrt(math.prod(like.shape[1:]))

    return {name: made(name, value) for name, value in module.state_dict().items()}


def under(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in weights.items()}
