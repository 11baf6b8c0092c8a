"""Patches that hold modules and tensors of their own, as IP-adapters do: they are where the patched model computes."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from multigpu.multigpu_core.testing import tiny_models

from .inprocess import ComfyUI
from .packs_at_hand import import_pack, stand_in
from .split_models import MODES, model_management

UNET = {"unet_name": "unet.safetensors", "weight_dtype": "default"}
SHAPE = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
    "channel_mult": (1, 2), "transformer_depth": [1, 1], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1], "context_dim": 16, "num_heads": 8, "num_head_channels": -1,
    "use_spatial_transformer": True, "use_linear_in_transformer": False, "legacy": False,
}  # fmt: skip
ELSEWHERE = {
    "on another device": ("UNETLoaderMultiGPU", {"device": "npu:1"}),
    "split": (
        "UNETLoaderDisTorch2MultiGPU",
        {"compute_device": "npu:1", "expert_mode_allocations": "npu:1,30%;npu:2,30%;cpu,40%"},
    ),
    "relayed": (
        "UNETLoaderDisTorch2MultiGPU",
        {"compute_device": "npu:1", "expert_mode_allocations": "npu:1,50%;npu:2,50%", "strategy": "relay"},
    ),
    "relayed beside ComfyUI's own device": ("UNETLoaderDisTorch2MultiGPU", {"compute_device": "npu:0", **MODES["relay"]}),
}


@pytest.fixture(scope="module", autouse=True)
def unet(started_comfyui: ComfyUI) -> Iterator[None]:
    """A tiny model of Stable Diffusion 1.5's kind, and the pack, as one that no integration knows."""
    models = importlib.import_module("comfy.supported_models")
    unet_model = importlib.import_module("comfy.ldm.modules.diffusionmodules.openaimodel").UNetModel
    operations = importlib.import_module("comfy.ops").disable_weight_init
    module = unet_model(dtype=torch.float32, operations=operations, **SHAPE)
    generator = torch.Generator().manual_seed(2)
    weights = {
        name: 0.1 * torch.randn(value.shape, generator=generator) for name, value in module.state_dict().items()
    }
    tiny_models.write(started_comfyui.models / "diffusion_models" / UNET["unet_name"], weights)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(models.SD15, "unet_config", {**models.SD15.unet_config, "model_channels": 32, "context_dim": 16})
        import_pack(started_comfyui, stand_in("ipadapter"))
        yield


def _model(comfyui: ComfyUI, loader: str = "UNETLoader", device: dict[str, Any] | None = None) -> Any:
    return comfyui.run(loader, **UNET, **(device or {}))[0]


def _adapted(comfyui: ComfyUI, model: Any) -> Any:
    image = torch.rand(1, 8, 8, 3, generator=torch.Generator().manual_seed(4))
    return comfyui.run("IPAdapterAdvanced", model=model, ipadapter={}, image=image, weight=0.8)[0]


def _picture(comfyui: ComfyUI, model: Any, cfg: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    positive, negative = ([[torch.randn(1, 8, 16, generator=generator), {}]] for _ in range(2))
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    result = comfyui.nodes.common_ksampler(model, 5, 2, cfg, "euler", "simple", positive, negative, latent)
    samples: Tensor = result[0]["samples"]
    return samples.cpu()


@pytest.fixture
def expected(comfyui: ComfyUI) -> Iterator[Tensor]:
    """The picture of ComfyUI's own loader on one device."""
    model = _model(comfyui)
    adapted = _picture(comfyui, _adapted(comfyui, model))
    assert not torch.equal(adapted, _picture(comfyui, model)), "the adapter changes nothing"
    del model
    comfyui.reset()
    yield adapted


@pytest.mark.parametrize("place", ELSEWHERE)
def test_the_picture_is_that_of_one_device(comfyui: ComfyUI, expected: Tensor, place: str) -> None:
    model = _adapted(comfyui, _model(comfyui, *ELSEWHERE[place]))
    for _ in range(2):
        assert torch.equal(_picture(comfyui, model), expected)
