"""The loaders, and the loading of a model's weights when it samples."""

import comfy.model_management as mm
import comfy.model_patcher
import torch

from .transformer import WanModel

device = mm.get_torch_device()
offload_device = mm.unet_offload_device()

CHOICE = ["main_device", "offload_device"]
PRECISIONS = ["fp32", "bf16", "fp16"]


def load_weights(transformer, transformer_load_device, block_swap_args=None):
    swapped = block_swap_args["blocks_to_swap"] if block_swap_args else 0
    transformer.embedding.to(transformer_load_device)
    for index, block in enumerate(transformer.blocks):
        block.to(offload_device if index < swapped else transformer_load_device)


class WanVideoModel(torch.nn.Module):
    def __init__(self, transformer, device):
        super().__init__()
        self.device = device
        self.diffusion_model = transformer
        self.pipeline = {}

    def __getitem__(self, key):
        return self.pipeline[key]

    def __setitem__(self, key, value):
        self.pipeline[key] = value


class WanVideoBlockSwap:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "blocks_to_swap": ("INT", {"default": 20}),
                "offload_img_emb": ("BOOLEAN", {"default": False}),
                "offload_txt_emb": ("BOOLEAN", {"default": False}),
            },
            "optional": {
                "use_non_blocking": ("BOOLEAN", {"default": False}),
                "vace_blocks_to_swap": ("INT", {"default": 0}),
                "prefetch_blocks": ("INT", {"default": 0}),
                "block_swap_debug": ("BOOLEAN", {"default": False}),
            },
        }

    RETURN_TYPES = ("BLOCKSWAPARGS",)
    RETURN_NAMES = ("block_swap_args",)
    FUNCTION = "setargs"

    def setargs(self, **kwargs):
        return (kwargs,)


class WanVideoModelLoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": (["made up", "broken"], {}),
                "base_precision": ([*PRECISIONS, "fp16_fast"], {"default": "bf16"}),
                "quantization": (["disabled"], {"default": "disabled"}),
                "load_device": (CHOICE, {"default": "offload_device"}),
            },
            "optional": {
                "attention_mode": (["sdpa"], {"default": "sdpa"}),
                "compile_args": ("WANCOMPILEARGS",),
                "block_swap_args": ("BLOCKSWAPARGS",),
                "lora": ("WANVIDLORA", {"default": None}),
                "vram_management_args": ("VRAM_MANAGEMENTARGS", {"default": None}),
                "extra_model": ("VACEPATH", {"default": None}),
                "fantasytalking_model": ("FANTASYTALKINGMODEL", {"default": None}),
                "multitalk_model": ("MULTITALKMODEL", {"default": None}),
                "fantasyportrait_model": ("FANTASYPORTRAITMODEL", {"default": None}),
                "rms_norm_function": (["default", "pytorch"], {"default": "default"}),
            },
        }

    RETURN_TYPES = ("WANVIDEOMODEL",)
    RETURN_NAMES = ("model",)
    FUNCTION = "loadmodel"

    def loadmodel(self, model, base_precision, load_device, quantization, block_swap_args=None, vace_model=None, **_):
        if model == "broken":
            raise ValueError("a broken file")
        transformer = WanModel(device, offload_device).to(device if load_device == "main_device" else offload_device)
        patcher = comfy.model_patcher.ModelPatcher(WanVideoModel(transformer, device), device, offload_device)
        patcher.model["vace"] = vace_model
        patcher.model_options["transformer_options"]["block_swap_args"] = block_swap_args
        return (patcher,)


def _module(where):
    return torch.nn.Linear(8, 8, bias=False).requires_grad_(False).to(where)


class WanVideoVAELoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"model_name": (["made up"], {})},
            "optional": {
                "precision": (PRECISIONS, {"default": "bf16"}),
                "compile_args": ("WANCOMPILEARGS",),
                "use_cpu_cache": ("BOOLEAN", {"default": False}),
                "verbose": ("BOOLEAN", {"default": False}),
            },
        }

    RETURN_TYPES = ("WANVAE",)
    RETURN_NAMES = ("vae",)
    FUNCTION = "loadmodel"

    def loadmodel(self, model_name, precision, compile_args=None, use_cpu_cache=False, verbose=False):
        return (_module(offload_device),)


class WanVideoTinyVAELoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"model_name": (["made up"], {})},
            "optional": {
                "precision": (PRECISIONS, {"default": "fp16"}),
                "parallel": ("BOOLEAN", {"default": False}),
            },
        }

    RETURN_TYPES = ("WANVAE",)
    RETURN_NAMES = ("vae",)
    FUNCTION = "loadmodel"

    def loadmodel(self, model_name, precision, parallel=False):
        return (_module(offload_device),)


class Encoder:
    """No module itself, but around one."""

    def __init__(self, where):
        self.model = _module(where)


class LoadWanVideoT5TextEncoder:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"model_name": (["made up"], {}), "precision": (["fp32", "bf16"], {"default": "bf16"})},
            "optional": {
                "load_device": (CHOICE, {"default": "offload_device"}),
                "quantization": (["disabled", "fp8_e4m3fn"], {"default": "disabled"}),
            },
        }

    RETURN_TYPES = ("WANTEXTENCODER",)
    RETURN_NAMES = ("wan_t5_model",)
    FUNCTION = "loadmodel"

    def loadmodel(self, model_name, precision, load_device="offload_device", quantization="disabled"):
        encoder = Encoder(device if load_device == "main_device" else offload_device)
        return ({"model": encoder, "dtype": torch.bfloat16, "name": model_name},)


class LoadWanVideoClipTextEncoder:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"model_name": (["made up"], {}), "precision": (PRECISIONS, {"default": "fp16"})},
            "optional": {"load_device": (CHOICE, {"default": "offload_device"})},
        }

    RETURN_TYPES = ("CLIP_VISION",)
    RETURN_NAMES = ("wan_clip_vision",)
    FUNCTION = "loadmodel"

    def loadmodel(self, model_name, precision, load_device="offload_device"):
        return (Encoder(device if load_device == "main_device" else offload_device),)


NODE_CLASS_MAPPINGS = {
    each.__name__: each
    for each in (
        WanVideoBlockSwap,
        WanVideoModelLoader,
        WanVideoVAELoader,
        WanVideoTinyVAELoader,
        LoadWanVideoT5TextEncoder,
        LoadWanVideoClipTextEncoder,
    )
}
