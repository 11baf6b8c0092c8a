"""The sampler, which loads the weights and reads its own globals."""

import comfy.model_management as mm
import torch

from .nodes_model_loading import load_weights
from .utils import init_blockswap, offload_transformer

device = mm.get_torch_device()
offload_device = mm.unet_offload_device()


class WanVideoSampler:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("WANVIDEOMODEL",),
                "image_embeds": ("WANVIDIMAGE_EMBEDS",),
                "steps": ("INT", {"default": 30}),
                "cfg": ("FLOAT", {"default": 6.0}),
                "shift": ("FLOAT", {"default": 5.0}),
                "seed": ("INT", {"default": 0}),
                "force_offload": ("BOOLEAN", {"default": True}),
                "scheduler": (["unipc"], {"default": "unipc"}),
                "riflex_freq_index": ("INT", {"default": 0}),
            },
            "optional": {
                "text_embeds": ("WANVIDEOTEXTEMBEDS",),
                "samples": ("LATENT", {}),
                "denoise_strength": ("FLOAT", {"default": 1.0}),
                "feta_args": ("FETAARGS",),
                "context_options": ("WANVIDCONTEXT",),
                "cache_args": ("CACHEARGS",),
                "flowedit_args": ("FLOWEDITARGS", {}),
                "batched_cfg": ("BOOLEAN", {"default": False}),
                "slg_args": ("SLGARGS",),
                "rope_function": (["default", "comfy"], {"default": "comfy"}),
                "loop_args": ("LOOPARGS",),
                "experimental_args": ("EXPERIMENTALARGS",),
                "sigmas": ("SIGMAS",),
                "unianimate_poses": ("UNIANIMATE_POSE",),
                "fantasytalking_embeds": ("FANTASYTALKING_EMBEDS",),
                "uni3c_embeds": ("UNI3C_EMBEDS",),
                "multitalk_embeds": ("MULTITALK_EMBEDS",),
                "freeinit_args": ("FREEINITARGS",),
                "start_step": ("INT", {"default": 0}),
                "end_step": ("INT", {"default": -1}),
                "add_noise_to_samples": ("BOOLEAN", {"default": False}),
            },
        }

    RETURN_TYPES = ("LATENT", "LATENT")
    RETURN_NAMES = ("samples", "denoised_samples")
    FUNCTION = "process"

    def process(self, model, image_embeds, steps, cfg, shift, seed, scheduler, riflex_freq_index, **options):
        transformer = model.model.diffusion_model
        block_swap_args = model.model_options["transformer_options"]["block_swap_args"]
        load_weights(transformer, device, block_swap_args)
        if block_swap_args:
            init_blockswap(transformer, block_swap_args)
        if scheduler == "broken":
            raise ValueError("no such scheduler")
        latent = torch.randn(1, 8, generator=torch.Generator().manual_seed(seed)).to(device)
        for _ in range(steps):
            latent = transformer(latent)
        seen = [str(block.weight.device) for block in transformer.blocks]
        if options.get("force_offload", True):
            offload_transformer(transformer)
        samples = {"samples": latent.cpu(), "computed_on": str(latent.device), "blocks_on": seen}
        return (samples, samples)
