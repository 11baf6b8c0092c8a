"""The real ComfyUI-WanVideoWrapper at work on a small Wan model, where MULTIGPU_PACKS names a folder that holds it."""

from __future__ import annotations

import importlib
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from ..support.in_process import ComfyUI
from ..support.made_up_packs import (
    devices_at_download,
    load_pack,
    module_of,
    smaller,
    stop_at_downloads,
    weights_of,
    write,
)

WAN = {
    "model": "wan.safetensors",
    "base_precision": "fp32",
    "quantization": "disabled",
    "load_device": "offload_device",
}


FILE = "one.safetensors"
CONTROLNET = {"model": FILE, "base_precision": "fp32", "quantization": "disabled", "load_device": "main_device"}


@pytest.fixture
def wan(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> ComfyUI:
    load_pack(comfyui, "ComfyUI-WanVideoWrapper", "wanvideo")
    module = module_of(comfyui, "WanVideoModelLoader")
    if not hasattr(module, "load_weights"):
        pytest.skip("the pack is one of 2025, whose loader reads its sizes off the weights' names")
    sizes = {"dim": 96, "num_heads": 4, "num_layers": 3, "ffn_dim": 64, "ffn2_dim": 64}
    build = smaller(monkeypatch, module, "WanModel", **sizes)
    transformer = build(in_features=96, out_features=96, main_device=torch.device("cpu"))
    weights = weights_of(transformer)
    for name in [name for name in weights if name.endswith(("cross_attn.k.weight", "cross_attn.v.weight"))]:
        weights[name] = weights[
            name.replace("cross_attn", "self_attn")
        ].clone()  # the pack declares them with a wrong size
    write(comfyui, "diffusion_models", "wan.safetensors", weights)
    return comfyui


def _wan_sampled(comfyui: ComfyUI, model: Any) -> torch.Tensor:
    (embeds,) = comfyui.run("WanVideoEmptyEmbeds", width=64, height=64, num_frames=5)
    text = torch.randn(6, 4096, generator=torch.Generator().manual_seed(1))
    texts = {"prompt_embeds": [text], "negative_prompt_embeds": [text * 0.5]}
    inputs = {"steps": 2, "cfg": 3.0, "shift": 5.0, "seed": 1, "scheduler": "unipc", "riflex_freq_index": 0}
    result = comfyui.run("WanVideoSampler", model=model, image_embeds=embeds, text_embeds=texts, **inputs)
    samples: torch.Tensor = result[0]["samples"]
    return samples


def test_wanvideo_s_own_sampler_computes_on_the_card_of_our_loader_and_makes_the_same_video(wan: ComfyUI) -> None:
    expected = _wan_sampled(wan, wan.run("WanVideoModelLoader", **WAN)[0])
    wan.machine.reset_peaks()
    model, device = wan.run("WanVideoModelLoaderMultiGPU", compute_device="npu:1", **WAN)
    samples = _wan_sampled(wan, model)
    assert device == "npu:1" and torch.equal(samples.cpu(), expected.cpu()) and expected.isfinite().all()
    assert [device.peak_bytes > 0 for device in wan.machine.devices] == [False, True, False]


class TorchWithCuda(ModuleType):
    cuda = SimpleNamespace(is_available=lambda: True, Event=object)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def test_wanvideo_s_block_swap_keeps_blocks_on_the_swap_device(wan: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pack brings swapped blocks back only where it sees CUDA, whose events it makes and does not use."""
    transformers = importlib.import_module(
        f"{module_of(wan, 'WanVideoModelLoader').__package__}.wanvideo.modules.model"
    )
    monkeypatch.setattr(transformers, "torch", TorchWithCuda("torch"))
    whole, _ = wan.run("WanVideoModelLoaderMultiGPU", compute_device="npu:1", **WAN)
    expected = _wan_sampled(wan, whole)
    swap = {"blocks_to_swap": 2, "offload_img_emb": False, "offload_txt_emb": False, "vace_blocks_to_swap": 0}
    (arguments,) = wan.run("WanVideoBlockSwapMultiGPU", swap_device="npu:2", **swap)
    model, _ = wan.run("WanVideoModelLoaderMultiGPU", compute_device="npu:1", block_swap_args=arguments, **WAN)
    wan.machine.reset_peaks()
    assert torch.equal(_wan_sampled(wan, model).cpu(), expected.cpu())
    assert [device.peak_bytes > 0 for device in wan.machine.devices] == [False, True, True]


def test_wanvideo_s_tiny_vae_encodes_and_decodes_on_its_device(wan: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    taehv = importlib.import_module(f"{module_of(wan, 'WanVideoTinyVAELoader').__package__}.taehv")
    monkeypatch.setattr(taehv.TAEHV, "patch_tgrow_layers", lambda self, weights: self.state_dict())
    built = taehv.TAEHV({"decoder.1.weight": torch.zeros(256, 16, 3, 3)})
    monkeypatch.undo()
    write(wan, "vae_approx", "taew2_1.safetensors", weights_of(built))
    inputs = {"model_name": "taew2_1.safetensors", "precision": "fp32"}
    vae, _ = wan.run("WanVideoTinyVAELoaderMultiGPU", load_device="npu:1", **inputs)
    wan.machine.reset_peaks()
    tiles = {"enable_vae_tiling": False, "tile_x": 272, "tile_y": 272, "tile_stride_x": 144, "tile_stride_y": 128}
    required = wan.nodes.NODE_CLASS_MAPPINGS["WanVideoEncode"].INPUT_TYPES()["required"]
    pictures = next(name for name in ("image", "driving_video") if name in required)
    (latent,) = wan.run("WanVideoEncode", vae=vae, **{pictures: torch.rand(5, 64, 64, 3)}, **tiles)
    (image,) = wan.run("WanVideoDecode", vae=vae, samples=latent, **tiles)
    assert image.shape[-1] == 3 and image.isfinite().all()
    assert [device.peak_bytes > 0 for device in wan.machine.devices] == [False, True, False]


def test_wanvideo_s_wav2vec_loader_comes_to_its_download_with_the_device_already_right(
    wan: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at_downloads(monkeypatch)
    inputs = {"model": "facebook/wav2vec2-base-960h", "base_precision": "fp32", "load_device": "main_device"}
    found = devices_at_download(lambda: wan.run("DownloadAndLoadWav2VecModelMultiGPU", device="npu:1", **inputs))
    assert found[0] == "npu:1"


LOADED_WHOLE = {
    "WanVideoVAELoader": ("vae", {"model_name": FILE, "precision": "fp32"}),
    "LoadWanVideoT5TextEncoder": ("text_encoders", {"model_name": FILE, "precision": "fp32"}),
    "LoadWanVideoClipTextEncoder": ("clip_vision", {"model_name": FILE, "precision": "fp32"}),
    "FantasyTalkingModelLoader": ("diffusion_models", {"model": FILE, "base_precision": "fp32"}),
    "WanVideoControlnetLoader": ("controlnet", CONTROLNET),
    "WanVideoUni3C_ControlnetLoader": ("controlnet", {**CONTROLNET, "attention_mode": "sdpa"}),
}


@pytest.mark.parametrize("loader", LOADED_WHOLE)
def test_a_loader_of_a_model_of_one_size_comes_to_its_file_with_the_device_already_right(
    wan: ComfyUI, monkeypatch: pytest.MonkeyPatch, loader: str
) -> None:
    """Their sizes are those of the published files, of up to five billion weights: too many for a test."""
    kind, inputs = LOADED_WHOLE[loader]
    write(wan, kind, FILE, {"a": torch.zeros(1)})
    module, seen = module_of(wan, loader), []
    mm = importlib.import_module("comfy.model_management")

    class FileWantedError(Exception): ...

    def load_torch_file(*_: Any, **__: Any) -> Any:
        own = getattr(module, "device", mm.get_torch_device())  # the pack's global where the module has one
        seen.extend([str(mm.get_torch_device()), str(own)])
        raise FileWantedError

    monkeypatch.setattr(module, "load_torch_file", load_torch_file)
    node = wan.nodes.NODE_CLASS_MAPPINGS[f"{loader}MultiGPU"]
    (part,) = node.VARIANT.parts
    with pytest.raises(FileWantedError):
        wan.run(f"{loader}MultiGPU", **{**inputs, part.device_name: "npu:2"})
    assert seen == ["npu:2", "npu:2"]
