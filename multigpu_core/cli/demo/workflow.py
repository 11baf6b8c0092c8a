"""The demo's workflow in ComfyUI's API format: load, LoRA, sample, decode, save; whole or split."""

from __future__ import annotations

from typing import Any

from multigpu.multigpu_core.provisioning.client import Workflow

from .models import DemoModels

SAMPLER_NODE = "sample"
IMAGE_SIZE = 256


def one_device_workflow(models: DemoModels, steps: int) -> Workflow:
    """The model whole on ComfyUI's own choice of device, and no node of ours."""
    return _workflow("UNETLoader", {}, models, steps)


def split_workflow(models: DemoModels, device: str, allocation: str, steps: int) -> Workflow:
    """The same with the model's weights split as the expert string `allocation` says; `device` computes."""
    inputs = {"compute_device": device, "expert_mode_allocations": allocation}
    return _workflow("UNETLoaderDisTorch2MultiGPU", inputs, models, steps)


def _workflow(loader: str, placement: dict[str, Any], models: DemoModels, steps: int) -> Workflow:
    unet = {"unet_name": models.diffusion_model, "weight_dtype": "default", **placement}
    lora = {"model": ["load", 0], "lora_name": models.lora, "strength_model": 0.8}
    size = {"width": IMAGE_SIZE, "height": IMAGE_SIZE, "batch_size": 1}
    wires = {"model": ["lora", 0], "positive": ["prompt", 0], "negative": ["prompt", 0], "latent_image": ["latent", 0]}
    sampling = {
        "seed": 2024,
        "steps": steps,
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "denoise": 1.0,
    }
    nodes = {
        "load": (loader, unet),
        "lora": ("LoraLoaderModelOnly", lora),
        # A prompt that needs no text encoder: the demo is about the diffusion model.
        "prompt": ("LotusConditioning", {}),
        "latent": ("EmptySD3LatentImage", size),
        SAMPLER_NODE: ("KSampler", {**sampling, **wires}),
        "vae": ("VAELoader", {"vae_name": models.vae}),
        "decode": ("VAEDecode", {"samples": [SAMPLER_NODE, 0], "vae": ["vae", 0]}),
        "save": ("SaveImage", {"images": ["decode", 0], "filename_prefix": "demo"}),
    }
    return {node_id: {"class_type": kind, "inputs": inputs} for node_id, (kind, inputs) in nodes.items()}
