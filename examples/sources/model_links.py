"""Where the model files of the examples can be downloaded, and ComfyUI's folder for each: the page offers them."""

from __future__ import annotations

from collections.abc import Mapping

_HUGGING_FACE = "https://huggingface.co/{repository}/resolve/main/{path}"
_WAN_21 = "Comfy-Org/Wan_2.1_ComfyUI_repackaged"
_WAN_22 = "Comfy-Org/Wan_2.2_ComfyUI_Repackaged"
_QWEN = "Comfy-Org/Qwen-Image_ComfyUI"
_HUNYUAN = "Comfy-Org/HunyuanVideo_repackaged"
_FLUX_ENCODERS = "comfyanonymous/flux_text_encoders"
PLACES = {
    "flux1-dev.safetensors": ("diffusion_models", "black-forest-labs/FLUX.1-dev", ""),
    "flux1-dev-fp8.safetensors": ("checkpoints", "Comfy-Org/flux1-dev", ""),
    "flux1-dev-Q8_0.gguf": ("unet", "city96/FLUX.1-dev-gguf", ""),
    "t5-v1_1-xxl-encoder-Q8_0.gguf": ("text_encoders", "city96/t5-v1_1-xxl-encoder-gguf", ""),
    "ae.safetensors": ("vae", "Comfy-Org/Lumina_Image_2.0_Repackaged", "split_files/vae/"),
    "clip_l.safetensors": ("text_encoders", _FLUX_ENCODERS, ""),
    "t5xxl_fp16.safetensors": ("text_encoders", _FLUX_ENCODERS, ""),
    "sd_xl_base_1.0.safetensors": ("checkpoints", "stabilityai/stable-diffusion-xl-base-1.0", ""),
    "sd_xl_refiner_1.0.safetensors": ("checkpoints", "stabilityai/stable-diffusion-xl-refiner-1.0", ""),
    "qwen_image_fp8_e4m3fn.safetensors": ("diffusion_models", _QWEN, "split_files/diffusion_models/"),
    "qwen_2.5_vl_7b_fp8_scaled.safetensors": ("text_encoders", _QWEN, "split_files/text_encoders/"),
    "qwen_image_vae.safetensors": ("vae", _QWEN, "split_files/vae/"),
    "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors": ("diffusion_models", _WAN_22, "split_files/diffusion_models/"),
    "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors": ("diffusion_models", _WAN_22, "split_files/diffusion_models/"),
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors": ("text_encoders", _WAN_21, "split_files/text_encoders/"),
    "wan_2.1_vae.safetensors": ("vae", _WAN_21, "split_files/vae/"),
    "hunyuan_video_t2v_720p_bf16.safetensors": ("diffusion_models", _HUNYUAN, "split_files/diffusion_models/"),
    "hunyuan_video_vae_bf16.safetensors": ("vae", _HUNYUAN, "split_files/vae/"),
    "llava_llama3_fp8_scaled.safetensors": ("text_encoders", _HUNYUAN, "split_files/text_encoders/"),
    "ltx-video-2b-v0.9.5.safetensors": ("checkpoints", "Lightricks/LTX-Video", ""),
}
"""By file name: ComfyUI's folder, the repository, and the folder in it. A pack's own files are left to the pack."""


def links_of(inputs: Mapping[str, object]) -> list[dict[str, str]]:
    """The files that a node's inputs name, as ComfyUI's page reads them from a node's `properties.models`."""
    named = [value for value in inputs.values() if isinstance(value, str) and value in PLACES]
    return [_link(name, *PLACES[name]) for name in dict.fromkeys(named)]


def _link(name: str, folder: str, repository: str, path: str) -> dict[str, str]:
    return {"name": name, "url": _HUGGING_FACE.format(repository=repository, path=path + name), "directory": folder}
