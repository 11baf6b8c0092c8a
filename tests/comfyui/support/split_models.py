"""Models for the tests of splits: Flux and Wan in several weight types, loaded whole or split, and what they sample."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from multigpu.multigpu_core.provisioning import tiny_models

from .in_process import ComfyUI
from .outputs import sampled
from .tiny_files import T5_WIDTH

MODES: dict[str, dict[str, Any]] = {
    "virtual VRAM": {"virtual_vram_gb": 0.004, "donor_device": "npu:1"},
    "virtual VRAM over two donors": {"virtual_vram_gb": 0.004, "donor_device": "npu:1,cpu"},
    "bytes": {"expert_mode_allocations": "npu:0,2mb;npu:1,3mb;cpu,*"},
    "ratio": {"expert_mode_allocations": "npu:0,20%;npu:1,40%;cpu,40%"},
    "fraction": {"expert_mode_allocations": "npu:0,0.0005;npu:2,0.0005;cpu,*"},
    "auto": {"expert_mode_allocations": "auto"},
    "contiguous": {"expert_mode_allocations": "npu:0,30%;npu:1,70%", "strategy": "contiguous"},
    "relay": {"expert_mode_allocations": "npu:0,50%;npu:1,50%", "strategy": "relay"},
    "relay over three cards and system memory": {
        "expert_mode_allocations": "npu:0,25%;npu:1,25%;npu:2,30%;cpu,20%",
        "strategy": "relay",
    },
    "all but the heads elsewhere": {"expert_mode_allocations": "npu:1,60%;npu:2,40%"},
    "the full form of a saved workflow": {"expert_mode_allocations": "npu:1,50%;cpu,50%#npu:0;4.0;cpu"},
}
THIRDS = MODES["ratio"]


@dataclass(frozen=True)
class Sampler:
    """Samples one architecture with fixed noise and prompt."""

    comfyui: ComfyUI
    architecture: str
    weight_dtype: str = "default"

    def whole(self) -> Any:
        return self.comfyui.run("UNETLoader", **self._file)[0]

    def split(self, **inputs: Any) -> Any:
        return self.comfyui.run("UNETLoaderDisTorch2MultiGPU", **self._file, **{"compute_device": "npu:0", **inputs})[0]

    def picture(self, model: Any, steps: int = 1) -> Tensor:
        if self.architecture == "flux":
            return sampled(self.comfyui, model, steps=steps)
        generator = torch.Generator().manual_seed(3)
        prompt = [[torch.randn(1, 8, T5_WIDTH, generator=generator), {}]]
        latent = {"samples": torch.zeros(1, 16, 2, 4, 4)}
        result = self.comfyui.nodes.common_ksampler(model, 5, steps, 1.0, "euler", "simple", prompt, prompt, latent)
        samples: Tensor = result[0]["samples"]
        return samples

    def with_lora(self, model: Any, strength: float, lora: str = "flux") -> Any:
        return self.comfyui.run(
            "LoraLoaderModelOnly", model=model, lora_name=f"{lora}.safetensors", strength_model=strength
        )[0]

    @property
    def _file(self) -> dict[str, str]:
        return {"unet_name": f"{self.architecture}.safetensors", "weight_dtype": self.weight_dtype}


def write_split_models(comfyui: ComfyUI) -> None:
    """Write what only these tests need: a Wan model and its LoRA, and LoRAs for the blocks alone or for two of them."""
    folder = comfyui.models / "diffusion_models"
    if (folder / "wan.safetensors").exists():
        return
    shape = tiny_models.WanShape(text_dim=T5_WIDTH)
    wan = tiny_models.wan_weights(shape)
    flux = tiny_models.flux_weights(tiny_models.FluxShape(context_dim=T5_WIDTH, pooled_dim=64))
    tiny_models.write(folder / "wan.safetensors", wan)
    two_blocks = ("double_blocks.1.", "single_blocks.2.")
    loras = {
        "wan": tiny_models.lora_weights(wan),
        "wan blocks": tiny_models.lora_weights(wan, ("blocks.",)),
        "flux blocks": tiny_models.lora_weights(flux, ("_blocks.",)),
        "two blocks": tiny_models.lora_weights(flux, two_blocks, seed=9),
    }
    for name, weights in loras.items():
        tiny_models.write(comfyui.models / "loras" / f"{name}.safetensors", weights)


def model_management() -> Any:
    return importlib.import_module("comfy.model_management")


def weights_of(model: Any) -> dict[str, Tensor]:
    """Every weight of a model, on the cpu."""
    return {name: value.detach().cpu().clone() for name, value in model.model.state_dict().items()}
