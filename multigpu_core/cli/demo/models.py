"""The tiny models that the demo draws with: files that ComfyUI's own loaders read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from multigpu.multigpu_core.provisioning import tiny_models

LORA_TARGETS = ("attn.qkv", "linear1")
LAST_VAE_LAYER = "taesd_decoder.19"
CONTRAST = 0.25
SHAPE = tiny_models.FluxShape(hidden_size=256)


@dataclass(frozen=True)
class DemoModels:
    """File names as the loaders' lists show them."""

    diffusion_model: str = "tiny-flux.safetensors"
    lora: str = "tiny-flux-lora.safetensors"
    vae: str = "tiny-vae.safetensors"


def write_demo_models(folder: Path, shape: tiny_models.FluxShape = SHAPE) -> DemoModels:
    """Writes a Flux-architecture model, a LoRA for it and a VAE under ComfyUI's `folder` of models."""
    models = DemoModels()
    flux = tiny_models.flux_weights(shape)
    tiny_models.write(folder / "diffusion_models" / models.diffusion_model, flux)
    tiny_models.write(folder / "loras" / models.lora, tiny_models.lora_weights(flux, LORA_TARGETS))
    tiny_models.write(folder / "vae" / models.vae, _with_mid_tones(tiny_models.vae_weights()))
    return models


def _with_mid_tones(vae: tiny_models.Weights) -> tiny_models.Weights:
    """The same VAE with a soft last layer: a made-up one saturates, and where all is black or white all is equal."""
    weight, bias = vae[f"{LAST_VAE_LAYER}.weight"], vae[f"{LAST_VAE_LAYER}.bias"]
    return {**vae, f"{LAST_VAE_LAYER}.weight": weight * CONTRAST, f"{LAST_VAE_LAYER}.bias": bias * 0 + 0.5}
