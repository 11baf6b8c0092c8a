"""The plugin keeps what MultiGPU's users count on."""

from __future__ import annotations

from typing import Any

import multigpu_example
from multigpu.testing import ComfyUI, LoaderTrial, check_loader, check_plugin


class MyModelLoader:
    """A stand-in for the pack's own loader: the same inputs, and a result of the same kind, only small."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"name": (["small"],)}}

    def load(self, name: str) -> tuple[Any]:
        import comfy.model_management as mm
        import torch
        from comfy.model_patcher import ModelPatcher

        def block() -> torch.nn.Module:  # of several layers, as a real one: single layers are not split
            return torch.nn.Sequential(torch.nn.LayerNorm(8), torch.nn.Linear(8, 8))

        model = torch.nn.Module()
        model.blocks = torch.nn.ModuleList(block() for _ in range(4))
        return (ModelPatcher(model, mm.get_torch_device(), mm.unet_offload_device()),)


def test_multigpu_accepts_the_plugin() -> None:
    check_plugin(multigpu_example)


def test_every_variant_keeps_its_promises(simulated_comfyui: ComfyUI) -> None:
    trial = LoaderTrial("MyModelLoader", MyModelLoader, {"name": "small"})
    check_loader(multigpu_example, trial, simulated_comfyui)
