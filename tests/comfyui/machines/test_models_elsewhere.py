"""Text encoders and VAEs on another machine give the results of this one, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ..support.tiny_files import PROMPT
from .conftest import SecondMachine

ENCODERS: dict[str, dict[str, Any]] = {
    "CLIPLoaderMultiGPU": {"clip_name": "clip_l.safetensors", "type": "stable_diffusion"},
    "DualCLIPLoaderMultiGPU": {
        "clip_name1": "clip_l.safetensors",
        "clip_name2": "clip_g.safetensors",
        "type": "sdxl",
    },
    "TripleCLIPLoaderMultiGPU": {
        "clip_name1": "clip_l.safetensors",
        "clip_name2": "clip_g.safetensors",
        "clip_name3": "t5xxl.safetensors",
    },
}


def same(one: Any, other: Any) -> bool:
    """Whether two trees of values and tensors are alike to the last bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("loader", ENCODERS)
def test_a_prompt_is_encoded_as_at_home(node2: SecondMachine, loader: str) -> None:
    (here,) = node2.run(loader, **ENCODERS[loader], device="npu:1")
    (there,) = node2.run(loader, **ENCODERS[loader], device="node2/npu:1")
    (expected,), (found,) = (node2.run("CLIPTextEncode", clip=clip, text=PROMPT) for clip in (here, there))
    assert same(found, expected)
    assert node2.submitted("text_encoder.call") == 2, "tokens and conditioning, on the other machine"


def test_a_layer_is_skipped_there_as_at_home_and_only_for_its_own_clone(node2: SecondMachine) -> None:
    inputs = ENCODERS["CLIPLoaderMultiGPU"]
    encoded = []
    for device in ("npu:1", "node2/npu:1"):
        (clip,) = node2.run("CLIPLoaderMultiGPU", **inputs, device=device)
        (skipping,) = node2.run("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=-2)
        encoded.append([node2.run("CLIPTextEncode", clip=each, text=PROMPT) for each in (skipping, clip)])
    assert same(*encoded)
    assert not same(encoded[1][0], encoded[1][1])


VAE = {"vae_name": "vae.safetensors"}


@pytest.fixture
def latent() -> dict[str, torch.Tensor]:
    return {"samples": torch.randn(1, 16, 2, 8, 8, generator=torch.Generator().manual_seed(3))}


def test_a_latent_is_decoded_and_an_image_encoded_as_at_home(
    node2: SecondMachine, latent: dict[str, torch.Tensor]
) -> None:
    results = []
    for device in ("npu:1", "node2/npu:1"):
        (vae,) = node2.run("VAELoaderMultiGPU", **VAE, device=device)
        (image,) = node2.run("VAEDecode", vae=vae, samples=latent)
        (tiled,) = node2.run("VAEDecodeTiled", vae=vae, samples=latent, tile_size=64, overlap=16)
        (again,) = node2.run("VAEEncode", vae=vae, pixels=image)
        results.append([image, tiled, again, vae.latent_channels])
    assert same(*results)
    assert results[0][0].std() > 0


def test_the_model_is_on_the_device_that_was_chosen_and_nothing_of_it_elsewhere(node2: SecondMachine) -> None:
    (vae,) = node2.run("VAELoaderMultiGPU", **VAE, device="node2/npu:2")
    before = node2.comfyui.held_bytes()
    node2.run("VAEDecode", vae=vae, samples={"samples": torch.zeros(1, 16, 1, 8, 8)})
    after = node2.comfyui.held_bytes()
    assert after[2] > before[2] and after[:2] == before[:2]


def test_a_second_run_loads_and_sends_nothing_again(node2: SecondMachine) -> None:
    for _ in range(2):
        (vae,) = node2.run("VAELoaderMultiGPU", **VAE, device="node2/npu:1")
        node2.run("VAEDecode", vae=vae, samples={"samples": torch.zeros(1, 16, 1, 8, 8)})
    assert len(node2.engine.started) == 1 and node2.submitted("file.write") == 1
    (models,) = node2.models
    assert models.holds() == ("vae.safetensors",)


def test_a_model_that_nobody_uses_any_more_gives_its_memory_to_the_next(node2: SecondMachine) -> None:
    (vae,) = node2.run("VAELoaderMultiGPU", **VAE, device="node2/npu:1")
    assert vae.latent_channels == 16
    del vae
    (clip,) = node2.run("CLIPLoaderMultiGPU", **ENCODERS["CLIPLoaderMultiGPU"], device="node2/npu:1")
    assert node2.models[0].holds() == ("clip_l.safetensors",)
    used = (clip, node2.run("VAELoaderMultiGPU", **VAE, device="node2/npu:1"))
    assert sorted(node2.models[0].holds()) == ["clip_l.safetensors", "vae.safetensors"]
    del used


def test_when_comfyui_forgets_everything_the_workers_end(node2: SecondMachine) -> None:
    (vae,) = node2.run("VAELoaderMultiGPU", **VAE, device="node2/npu:1")
    node2.machines.let_go()
    assert node2.worker.is_ended
    assert node2.run("VAEDecode", vae=vae, samples={"samples": torch.zeros(1, 16, 1, 8, 8)})[0].shape[0] == 1
    assert len(node2.engine.started) == 2, "the next use starts one again"
