"""A stand-in for ComfyUI-MMAudio: loaders that return bare modules, and a sampler that moves them by itself."""

from __future__ import annotations

import comfy.model_management as mm
import torch


class _Model(torch.nn.Linear):
    @property
    def device(self):
        return self.weight.device


class MMAudioModelLoader:
    @classmethod
    def INPUT_TYPES(cls):
        precision = (["fp16", "fp32", "bf16"], {"default": "fp16"})
        return {"required": {"mmaudio_model": (["a"],), "base_precision": precision}}

    RETURN_TYPES = ("MMAUDIO_MODEL",)
    FUNCTION = "loadmodel"
    CATEGORY = "MMAudio"

    def loadmodel(self, mmaudio_model, base_precision):
        return (_Model(4, 4).to(mm.unet_offload_device()),)


class MMAudioFeatureUtilsLoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {name: (["a"],) for name in ("vae_model", "synchformer_model", "clip_model")},
            "optional": {
                "bigvgan_vocoder_model": ("VOCODER_MODEL",),
                "mode": (["16k", "44k"], {"default": "44k"}),
                "precision": (["fp16", "fp32", "bf16"], {"default": "fp16"}),
            },
        }

    RETURN_TYPES = ("MMAUDIO_FEATUREUTILS",)
    FUNCTION = "loadmodel"
    CATEGORY = "MMAudio"

    def loadmodel(self, vae_model, precision, synchformer_model, clip_model, mode, bigvgan_vocoder_model=None):
        return (_Model(4, 4).to(mm.get_torch_device()),)


class MMAudioSampler:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "mmaudio_model": ("MMAUDIO_MODEL",),
                "feature_utils": ("MMAUDIO_FEATUREUTILS",),
                "duration": ("FLOAT", {"default": 8}),
                "steps": ("INT", {"default": 25}),
                "cfg": ("FLOAT", {"default": 4.5}),
                "seed": ("INT", {"default": 0}),
                "prompt": ("STRING", {"default": ""}),
                "negative_prompt": ("STRING", {"default": ""}),
                "mask_away_clip": ("BOOLEAN", {"default": False}),
                "force_offload": ("BOOLEAN", {"default": True}),
            },
            "optional": {"images": ("IMAGE",)},
        }

    RETURN_TYPES = ("AUDIO",)
    FUNCTION = "sample"
    CATEGORY = "MMAudio"

    def sample(self, mmaudio_model, feature_utils, force_offload=True, **settings):
        device, offload_device = mm.get_torch_device(), mm.unet_offload_device()
        model, features = mmaudio_model.to(device), feature_utils.to(device)
        waveform = model(features(torch.ones(1, 4, device=device))).cpu()
        used = str(model.device)
        if force_offload:
            model.to(offload_device)
        return ({"waveform": waveform, "sample_rate": 44100, "used": used},)


NODE_CLASS_MAPPINGS = {node.__name__: node for node in (MMAudioModelLoader, MMAudioFeatureUtilsLoader, MMAudioSampler)}
