"""A stand-in for ComfyUI-HunyuanVideoWrapper: the same names, inputs and results, with made-up models.

Every node asks for its devices again; encoding asks for the text encoder's; the transformer keeps the two devices
between which it swaps blocks; and encoding may first move the video model out of the way.
"""

import comfy.model_management as mm
import comfy.model_patcher
import torch

CHOICE = ["main_device", "offload_device"]
TILES = {
    "enable_vae_tiling": ("BOOLEAN", {"default": True}),
    "temporal_tiling_sample_size": ("INT", {"default": 64}),
    "spatial_tile_sample_min_size": ("INT", {"default": 256}),
    "auto_tile_size": ("BOOLEAN", {"default": True}),
}


def _module(where):
    return torch.nn.Linear(8, 8).requires_grad_(False).to(where)


class Transformer(torch.nn.Module):
    def __init__(self, main_device, offload_device):
        super().__init__()
        self.main_device, self.offload_device = main_device, offload_device
        self.double_blocks = torch.nn.ModuleList(_module("cpu") for _ in range(4))
        self.swapped = 0

    def block_swap(self, count):
        self.swapped = count
        for index, block in enumerate(self.double_blocks):
            block.to(self.offload_device if index < count else self.main_device)

    def forward(self, x):
        for index, block in enumerate(self.double_blocks):
            x = block.to(self.main_device)(x)
            if index < self.swapped:
                block.to(self.offload_device)
        return x


class HyVideoModel(torch.nn.Module):
    def __init__(self, transformer):
        super().__init__()
        self.diffusion_model = transformer
        self.pipeline = {}

    def __getitem__(self, key):
        return self.pipeline[key]

    def __setitem__(self, key, value):
        self.pipeline[key] = value


class HyVideoModelLoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": (["made up"], {}),
                "base_precision": (["fp32", "bf16"], {"default": "bf16"}),
                "quantization": (["disabled", "fp8_e4m3fn", "fp8_scaled"], {"default": "disabled"}),
                "load_device": (CHOICE, {"default": "main_device"}),
            },
            "optional": {
                "attention_mode": (["sdpa", "comfy"], {"default": "flash_attn"}),
                "compile_args": ("COMPILEARGS",),
                "block_swap_args": ("BLOCKSWAPARGS",),
                "lora": ("HYVIDLORA", {"default": None}),
                "auto_cpu_offload": ("BOOLEAN", {"default": False}),
                "upcast_rope": ("BOOLEAN", {"default": True}),
            },
        }

    RETURN_TYPES = ("HYVIDEOMODEL",)
    RETURN_NAMES = ("model",)
    FUNCTION = "loadmodel"

    def loadmodel(self, model, base_precision, load_device, quantization, block_swap_args=None, **_):
        device, offload_device = mm.get_torch_device(), mm.unet_offload_device()
        transformer = Transformer(device, offload_device).to(device if load_device == "main_device" else offload_device)
        patcher = comfy.model_patcher.ModelPatcher(HyVideoModel(transformer), device, offload_device)
        patcher.model["block_swap_args"] = block_swap_args
        return (patcher,)


class HyVideoVAELoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"model_name": (["made up"], {})},
            "optional": {
                "precision": (["fp16", "fp32", "bf16"], {"default": "bf16"}),
                "compile_args": ("COMPILEARGS",),
            },
        }

    RETURN_TYPES = ("VAE",)
    RETURN_NAMES = ("vae",)
    FUNCTION = "loadmodel"

    def loadmodel(self, model_name, precision, compile_args=None):
        return (_module(mm.get_torch_device()),)


class TextEncoder(torch.nn.Module):
    def __init__(self, device):
        super().__init__()
        self.model = _module(device)

    @property
    def device(self):
        return next(self.parameters()).device


class DownloadAndLoadHyVideoTextEncoder:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "llm_model": (["Kijai/llava-llama-3-8b-text-encoder-tokenizer", "made up"],),
                "clip_model": (["disabled", "openai/clip-vit-large-patch14"],),
                "precision": (["fp16", "fp32", "bf16"], {"default": "bf16"}),
            },
            "optional": {
                "apply_final_norm": ("BOOLEAN", {"default": False}),
                "hidden_state_skip_layer": ("INT", {"default": 2}),
                "quantization": (["disabled", "bnb_nf4"], {"default": "disabled"}),
                "load_device": (CHOICE, {"default": "offload_device"}),
            },
        }

    RETURN_TYPES = ("HYVIDTEXTENCODER",)
    RETURN_NAMES = ("hyvid_text_encoder",)
    FUNCTION = "loadmodel"

    def loadmodel(self, llm_model, clip_model, precision, load_device="offload_device", **_):
        device = mm.get_torch_device() if load_device == "main_device" else mm.unet_offload_device()
        return ({"text_encoder": TextEncoder(device), "text_encoder_2": None},)


class HyVideoTextEncode:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "text_encoders": ("HYVIDTEXTENCODER",),
                "prompt": ("STRING", {"default": "", "multiline": True}),
            },
            "optional": {
                "force_offload": ("BOOLEAN", {"default": True}),
                "prompt_template": (["video"], {"default": "video"}),
                "custom_prompt_template": ("PROMPT_TEMPLATE", {}),
                "clip_l": ("CLIP", {}),
                "hyvid_cfg": ("HYVID_CFG",),
                "model_to_offload": ("HYVIDEOMODEL", {}),
            },
        }

    RETURN_TYPES = ("HYVIDEMBEDS",)
    RETURN_NAMES = ("hyvid_embeds",)
    FUNCTION = "process"

    def process(self, text_encoders, prompt, force_offload=True, model_to_offload=None, **_):
        device, offload_device = mm.text_encoder_device(), mm.text_encoder_offload_device()
        if model_to_offload is not None:
            model_to_offload.model.to(offload_device)
        encoder = text_encoders["text_encoder"].to(device)
        embeds = encoder.model(torch.ones(1, 8, device=device))
        if force_offload:
            encoder.to(offload_device)
        return ({"prompt_embeds": embeds},)


class HyVideoTextImageEncode(HyVideoTextEncode):
    """Inherits what it runs, with inputs of its own."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "text_encoders": ("HYVIDTEXTENCODER",),
                "prompt": ("STRING", {"default": "", "multiline": True}),
                "image_token_selection_expr": ("STRING", {"default": "::4"}),
            },
            "optional": {
                "force_offload": ("BOOLEAN", {"default": True}),
                "prompt_template": (["video"], {"default": "video"}),
                "custom_prompt_template": ("PROMPT_TEMPLATE", {}),
                "clip_l": ("CLIP", {}),
                "image1": ("IMAGE", {"default": None}),
                "image2": ("IMAGE", {"default": None}),
                "clip_text_override": ("STRING", {"default": ""}),
                "hyvid_cfg": ("HYVID_CFG",),
                "model_to_offload": ("HYVIDEOMODEL", {}),
            },
        }


class HyVideoSampler:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("HYVIDEOMODEL",),
                "hyvid_embeds": ("HYVIDEMBEDS",),
                "width": ("INT", {"default": 512}),
                "height": ("INT", {"default": 512}),
                "num_frames": ("INT", {"default": 49}),
                "steps": ("INT", {"default": 30}),
                "embedded_guidance_scale": ("FLOAT", {"default": 6.0}),
                "flow_shift": ("FLOAT", {"default": 9.0}),
                "seed": ("INT", {"default": 0}),
                "force_offload": ("BOOLEAN", {"default": True}),
            },
            "optional": {
                "samples": ("LATENT", {}),
                "image_cond_latents": ("LATENT", {}),
                "denoise_strength": ("FLOAT", {"default": 1.0}),
                "stg_args": ("STGARGS",),
                "context_options": ("HYVIDCONTEXT",),
                "feta_args": ("FETAARGS",),
                "teacache_args": ("TEACACHEARGS",),
                "scheduler": (["FlowMatchDiscreteScheduler"], {}),
                "riflex_freq_index": ("INT", {"default": 0}),
                "i2v_mode": (["stability", "dynamic"], {"default": "dynamic"}),
                "loop_args": ("LOOPARGS",),
                "fresca_args": ("FRESCA_ARGS",),
                "slg_args": ("SLGARGS",),
                "mask": ("MASK",),
            },
        }

    RETURN_TYPES = ("LATENT",)
    RETURN_NAMES = ("samples",)
    FUNCTION = "process"

    def process(self, model, hyvid_embeds, steps, force_offload=True, **_):
        device, offload_device = mm.get_torch_device(), mm.unet_offload_device()
        transformer = model.model.diffusion_model
        swap = model.model["block_swap_args"]
        transformer.to(device) if swap is None else transformer.block_swap(swap["double_blocks_to_swap"])
        blocks = [str(block.weight.device) for block in transformer.double_blocks]
        latent = transformer(torch.ones(1, 8, device=device))
        if force_offload:
            transformer.to(offload_device)
        return ({"samples": latent.cpu(), "computed_on": str(latent.device), "blocks_on": blocks},)


class HyVideoDecode:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"vae": ("VAE",), "samples": ("LATENT",), **TILES},
            "optional": {
                "skip_latents": ("INT", {"default": 0}),
                "balance_brightness": ("BOOLEAN", {"default": False}),
            },
        }

    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)
    FUNCTION = "decode"

    def decode(self, vae, samples, **_):
        device, offload_device = mm.get_torch_device(), mm.unet_offload_device()
        image = vae.to(device)(samples["samples"].to(device))
        vae.to(offload_device)
        return (image,)


class HyVideoEncode:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"vae": ("VAE",), "image": ("IMAGE",), **TILES},
            "optional": {
                "noise_aug_strength": ("FLOAT", {"default": 0.0}),
                "latent_strength": ("FLOAT", {"default": 1.0}),
                "latent_dist": (["sample", "mode"], {"default": "sample"}),
            },
        }

    RETURN_TYPES = ("LATENT",)
    RETURN_NAMES = ("samples",)
    FUNCTION = "encode"

    def encode(self, vae, image, **_):
        device = mm.get_torch_device()
        return ({"samples": vae.to(device)(image.to(device))},)


NODE_CLASS_MAPPINGS = {
    each.__name__: each
    for each in (
        HyVideoModelLoader,
        HyVideoVAELoader,
        DownloadAndLoadHyVideoTextEncoder,
        HyVideoTextEncode,
        HyVideoTextImageEncode,
        HyVideoSampler,
        HyVideoDecode,
        HyVideoEncode,
    )
}
