"""What each kind of loader output computes from fixed inputs: the same values wherever its model lies."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .in_process import ComfyUI
from .tiny_files import CLIP_WIDTH, PROMPT, T5_WIDTH


def computed(comfyui: ComfyUI, outputs: Sequence[Any], device: str | None = None) -> list[Tensor]:
    """The values of a MODEL, CLIP, VAE, CLIP_VISION or CONTROL_NET output, on the cpu.

    A ControlNet steers a model that is loaded on `device`, or by core's own loader.
    """
    return [value.cpu() for output in outputs for value in _computed(comfyui, output, device)]


def sampled(comfyui: ComfyUI, model: Any, positive: Any = None, steps: int = 1) -> Tensor:
    """A latent that core's KSampler makes with `model` from fixed noise and a fixed prompt."""
    latent = {"samples": torch.zeros(1, 16, 4, 4)}
    prompt = conditioning()
    result = comfyui.nodes.common_ksampler(model, 5, steps, 1.0, "euler", "simple", positive or prompt, prompt, latent)
    samples: Tensor = result[0]["samples"]
    return samples


def conditioning() -> list[list[Any]]:
    """A made-up prompt for the tiny Flux model."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randn(1, 8, T5_WIDTH, generator=generator)
    return [[tokens, {"pooled_output": torch.randn(1, CLIP_WIDTH, generator=generator)}]]


def picture() -> Tensor:
    return torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(4))


def _computed(comfyui: ComfyUI, output: Any, device: str | None) -> Sequence[Tensor]:
    if hasattr(output, "encode_from_tokens"):
        tokens, pooled = output.encode_from_tokens(output.tokenize(PROMPT), return_pooled=True)
        return tokens, pooled
    if hasattr(output, "encode_image"):
        seen = output.encode_image(picture())
        return seen["last_hidden_state"], seen["image_embeds"]
    if hasattr(output, "first_stage_model"):
        latent = output.encode(picture())
        return latent, output.decode(latent)
    if hasattr(output, "get_control"):
        return (_steered(comfyui, output, device),)
    return (sampled(comfyui, output),)


def _steered(comfyui: ComfyUI, control: Any, device: str | None) -> Tensor:
    flux = {"unet_name": "flux.safetensors", "weight_dtype": "default"}
    (model,) = comfyui.run("UNETLoaderMultiGPU", **flux, device=device) if device else comfyui.run("UNETLoader", **flux)
    prompt = conditioning()
    steered, _ = comfyui.run(
        "ControlNetApplyAdvanced", positive=prompt, negative=prompt, control_net=control, image=picture(),
        strength=1.0, start_percent=0.0, end_percent=1.0,
    )  # fmt: skip
    return sampled(comfyui, model, steered)


def held_model(output: Any) -> torch.nn.Module:
    """The module that a loader's output computes with."""
    results = importlib.import_module("multigpu.multigpu_core.comfy.host.loader_outputs")
    model: torch.nn.Module = results.patcher_of(output).model
    return model
