"""The versions that our tests passed with, for `multigpu doctor`: docs/compatibility.md and the README say the same."""

from __future__ import annotations

COMFYUI = ("0.33.0", "0.30.0", "0.24.1", "0.18.2")
COMFY_AIMDO = ("0.4.13", "0.4.11")
"""The package behind ComfyUI's DynamicVRAM."""
RAY = "2.60.0"
PACKS = {
    "ComfyUI-GGUF": ("2.0.0", "795e451"),
    "ComfyUI-WanVideoWrapper": ("1.4.7", "df8f3e4", "ef95cfa", "1.0.6", "721cd65"),
    "ComfyUI-Florence2": ("1.0.6", "00b6338"),
    "ComfyUI-HunyuanVideoWrapper": ("1.0.8", "3ce9640"),
    "ComfyUI-LTXVideo": ("aceeae9", "af8228a"),
    "ComfyUI-MMAudio": ("1.0.3", "8eaeb72"),
    "ComfyUI_IPAdapter_plus": ("2.0.0", "9d076a3"),
    "ComfyUI_bitsandbytes_NF4": ("6c65152",),
    "PuLID_ComfyUI": ("1.0.1", "4e1fd40"),
    "x-flux-comfyui": ("1.0.0", "0032855"),
    "ComfyUI-Frame-Interpolation": ("26545cc",),
    "ComfyUI-RMBG": ("3.1.0", "58f1947"),
    "ComfyUI-VibeVoice": ("d04665d",),
    "ComfyUI-QwenVL": ("88d47a8",),
}
"""Node packs by their folder's name: versions, and commits, which are all that some of them have."""
LEAST_PYTHON = (3, 10)
LEAST_TORCH = (2, 4)
LEAST_TORCH_FOR_DYNAMIC_VRAM = (2, 8)
