"""The graphs that the examples share: what each model needs from its loaders to a saved picture or video."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ui_format import Node, Wire

PROMPT = "a lighthouse on a cliff at dawn, oil painting"
SCENE, STILL = "waves around a lighthouse, wide shot", "still picture"


def split(file: str, **split_inputs: Any) -> Node:
    """A diffusion model split by our node."""
    title = "The model, split"
    return Node("UNETLoaderDisTorch2MultiGPU", {"unet_name": file, "compute_device": "cuda:0", **split_inputs}, title)


def flux(model: Node, clip_device: str = "cuda:1", vae_device: str = "cuda:1", **more: Node) -> dict[str, Node]:
    """The usual graph of Flux; `more` replaces nodes by name, or adds some."""
    clip = {"clip_name1": "clip_l.safetensors", "clip_name2": "t5xxl_fp16.safetensors", "type": "flux"}
    nodes = {
        "model": model,
        "clip": Node("DualCLIPLoaderMultiGPU", {**clip, "device": clip_device}, f"Text encoders on {clip_device}"),
        "vae": Node("VAELoaderMultiGPU", {"vae_name": "ae.safetensors", "device": vae_device}, f"VAE on {vae_device}"),
        "prompt": Node("CLIPTextEncode", {"clip": Wire("clip"), "text": PROMPT}),
        "guidance": Node("FluxGuidance", {"conditioning": Wire("prompt"), "guidance": 3.5}),
        "negative": Node("ConditioningZeroOut", {"conditioning": Wire("prompt")}),
        "latent": Node("EmptySD3LatentImage", {"width": 1024, "height": 1024}),
        "sample": sampler(Wire("model"), Wire("guidance"), Wire("negative"), Wire("latent"), cfg=1.0),
        "decode": Node("VAEDecode", {"samples": Wire("sample"), "vae": Wire("vae")}),
        "save": Node("SaveImage", {"images": Wire("decode"), "filename_prefix": "multigpu"}),
    }
    return {**nodes, **more}


def sampler(model: Wire, positive: Wire, negative: Wire, latent: Wire, **settings: Any) -> Node:
    wires = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
    return Node("KSampler", {**wires, "steps": 20, "sampler_name": "euler", "scheduler": "simple", **settings})


def sdxl(loader: Node, **more: Node) -> dict[str, Node]:
    nodes = {
        "model": loader,
        "prompt": Node("CLIPTextEncode", {"clip": Wire("model", 1), "text": PROMPT}),
        "negative": Node("CLIPTextEncode", {"clip": Wire("model", 1), "text": "blurry"}),
        "latent": Node("EmptyLatentImage", {"width": 1024, "height": 1024}),
        "sample": sampler(Wire("model"), Wire("prompt"), Wire("negative"), Wire("latent"), cfg=7.0),
        "decode": Node("VAEDecode", {"samples": Wire("sample"), "vae": Wire("model", 2)}),
        "save": Node("SaveImage", {"images": Wire("decode"), "filename_prefix": "multigpu"}),
    }
    return {**nodes, **more}


def qwen(model: Node, clip_device: str) -> dict[str, Node]:
    clip = {"clip_name": "qwen_2.5_vl_7b_fp8_scaled.safetensors", "type": "qwen_image", "device": clip_device}
    graph = flux(
        model,
        clip_device,
        "cuda:0",
        clip=Node("CLIPLoaderMultiGPU", clip, f"Text encoder on {clip_device}"),
        vae=Node("VAELoaderMultiGPU", {"vae_name": "qwen_image_vae.safetensors", "device": "cuda:0"}),
        shift=Node("ModelSamplingAuraFlow", {"model": Wire("model"), "shift": 3.1}),
        negative=Node("CLIPTextEncode", {"clip": Wire("clip"), "text": ""}),
        latent=Node("EmptySD3LatentImage", {"width": 1328, "height": 1328}),
        sample=sampler(Wire("shift"), Wire("prompt"), Wire("negative"), Wire("latent"), cfg=2.5),
    )
    del graph["guidance"]
    return graph


def video(nodes: dict[str, Node], images: Wire, fps: float) -> dict[str, Node]:
    """The graph with its pictures saved as an animation."""
    saving = {"images": images, "filename_prefix": "multigpu", "fps": fps}
    return {**nodes, "save": Node("SaveAnimatedWEBP", saving)}


def wan(high: Node, low: Node, clip_device: str) -> dict[str, Node]:
    stages: dict[str, Any] = {"steps": 20, "cfg": 3.5, "sampler_name": "euler", "scheduler": "simple"}
    texts = {"positive": Wire("prompt"), "negative": Wire("negative")}
    clip = {"clip_name": "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "type": "wan", "device": clip_device}
    first = {**stages, **texts, "model": Wire("high shifted"), "latent_image": Wire("latent"), "end_at_step": 10}
    second = {**stages, **texts, "model": Wire("low shifted"), "latent_image": Wire("sample"), "start_at_step": 10}
    nodes = {
        "high": replace(high, title="The expert for high noise"),
        "low": replace(low, title="The expert for low noise"),
        "clip": Node("CLIPLoaderMultiGPU", clip, f"Text encoder on {clip_device}"),
        "vae": Node("VAELoaderMultiGPU", {"vae_name": "wan_2.1_vae.safetensors", "device": "cuda:0"}),
        "high shifted": Node("ModelSamplingSD3", {"model": Wire("high"), "shift": 8.0}),
        "low shifted": Node("ModelSamplingSD3", {"model": Wire("low"), "shift": 8.0}),
        "prompt": Node("CLIPTextEncode", {"clip": Wire("clip"), "text": SCENE}),
        "negative": Node("CLIPTextEncode", {"clip": Wire("clip"), "text": STILL}),
        "latent": Node("EmptyHunyuanLatentVideo", {"width": 832, "height": 480, "length": 81}),
        "sample": Node("KSamplerAdvanced", {**first, "return_with_leftover_noise": "enable"}),
        "finish": Node("KSamplerAdvanced", {**second, "add_noise": "disable"}),
        "decode": Node("VAEDecode", {"samples": Wire("finish"), "vae": Wire("vae")}),
    }
    return video(nodes, Wire("decode"), 16.0)


def hunyuan(model: Node, clip_device: str, vae_device: str) -> dict[str, Node]:
    clips = {"clip_name1": "clip_l.safetensors", "clip_name2": "llava_llama3_fp8_scaled.safetensors"}
    clip = {**clips, "type": "hunyuan_video", "device": clip_device}
    vae = {"vae_name": "hunyuan_video_vae_bf16.safetensors", "device": vae_device}
    graph = flux(
        model,
        clip=Node("DualCLIPLoaderMultiGPU", clip, f"Text encoders on {clip_device}"),
        vae=Node("VAELoaderMultiGPU", vae, f"VAE on {vae_device}"),
        prompt=Node("CLIPTextEncode", {"clip": Wire("clip"), "text": SCENE}),
        guidance=Node("FluxGuidance", {"conditioning": Wire("prompt"), "guidance": 6.0}),
        shift=Node("ModelSamplingSD3", {"model": Wire("model"), "shift": 7.0}),
        latent=Node("EmptyHunyuanLatentVideo", {"width": 848, "height": 480, "length": 73}),
        sample=sampler(Wire("shift"), Wire("guidance"), Wire("negative"), Wire("latent"), cfg=1.0),
        decode=Node("VAEDecodeTiled", {"samples": Wire("sample"), "vae": Wire("vae")}),
    )
    return video(graph, Wire("decode"), 24.0)


def ltx(clip_device: str, **split_inputs: Any) -> dict[str, Node]:
    checkpoint = {"ckpt_name": "ltx-video-2b-v0.9.5.safetensors", "compute_device": "cuda:0", **split_inputs}
    clip = {"clip_name": "t5xxl_fp16.safetensors", "type": "ltxv", "device": clip_device}
    rated = {"positive": Wire("prompt"), "negative": Wire("negative"), "frame_rate": 25.0}
    nodes = {
        "model": Node("CheckpointLoaderSimpleDisTorch2MultiGPU", checkpoint, "The model, split"),
        "clip": Node("CLIPLoaderMultiGPU", clip, f"Text encoder on {clip_device}"),
        "prompt": Node("CLIPTextEncode", {"clip": Wire("clip"), "text": SCENE}),
        "negative": Node("CLIPTextEncode", {"clip": Wire("clip"), "text": STILL}),
        "rate": Node("LTXVConditioning", rated),
        "latent": Node("EmptyLTXVLatentVideo", {"width": 768, "height": 512, "length": 97}),
        "sample": sampler(Wire("model"), Wire("rate"), Wire("rate", 1), Wire("latent"), cfg=3.0),
        "decode": Node("VAEDecode", {"samples": Wire("sample"), "vae": Wire("model", 2)}),
    }
    return video(nodes, Wire("decode"), 25.0)
