"""A tiny UNet of Stable Diffusion 1.5's kind: the models whose attention IP-adapters patch."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from multigpu.multigpu_core.provisioning import tiny_models

from .in_process import ComfyUI

UNET = {"unet_name": "unet.safetensors", "weight_dtype": "default"}
SHAPE: dict[str, Any] = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
    "channel_mult": (1, 2), "transformer_depth": [1, 1], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1], "context_dim": 16, "num_heads": 8, "num_head_channels": -1,
    "use_spatial_transformer": True, "use_linear_in_transformer": False, "legacy": False,
}  # fmt: skip


@contextmanager
def small_unet(comfyui: ComfyUI) -> Iterator[None]:
    """Write the model, and let ComfyUI take one of this size for a Stable Diffusion 1.5 until the block is left."""
    models = importlib.import_module("comfy.supported_models")
    unet_model = importlib.import_module("comfy.ldm.modules.diffusionmodules.openaimodel").UNetModel
    operations = importlib.import_module("comfy.ops").disable_weight_init
    module = unet_model(dtype=torch.float32, operations=operations, **SHAPE)
    generator = torch.Generator().manual_seed(2)
    weights = {name: 0.1 * torch.randn(value.shape, generator=generator) for name, value in module.state_dict().items()}
    tiny_models.write(comfyui.models / "diffusion_models" / UNET["unet_name"], weights)
    with pytest.MonkeyPatch.context() as patched:
        size = {"model_channels": SHAPE["model_channels"], "context_dim": SHAPE["context_dim"]}
        patched.setattr(models.SD15, "unet_config", {**models.SD15.unet_config, **size})
        yield


def unet_picture(comfyui: ComfyUI, model: Any, cfg: float = 1.0) -> Tensor:
    """Two steps from fixed noise and a fixed prompt."""
    generator = torch.Generator().manual_seed(3)
    positive, negative = ([[torch.randn(1, 8, 16, generator=generator), {}]] for _ in range(2))
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    result = comfyui.nodes.common_ksampler(model, 5, 2, cfg, "euler", "simple", positive, negative, latent)
    samples: Tensor = result[0]["samples"]
    return samples.cpu()
