"""A stand-in for ComfyUI-MMAudio: the same names, inputs and results, with made-up modules.

Its models wait on the offload device and its features on the device; the sampler asks for both devices again and moves
both models.
"""

import comfy.model_management as mm
import torch

FILES = (["made up"], {})
PRECISION = (["fp16", "fp32", "bf16"], {"default": "fp16"})


def _module(where):
    return torch.nn.Linear(8, 8).requires_grad_(False).to(where)


class MMAudioModelLoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"mmaudio_model": FILES, "base_precision": PRECISION}}

    RETURN_TYPES = ("MMAUDIO_MODEL",)
    RETURN_NAMES = ("mmaudio_model",)
    FUNCTION = "loadmodel"

    def loadmodel(self, mmaudio_model, base_precision):
        return (_module(mm.unet_offload_device()),)


class MMAudioVoCoderLoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"vocoder_model": FILES}}

    RETURN_TYPES = ("VOCODER_MODEL",)
    RETURN_NAMES = ("mmaudio_vocoder",)
    FUNCTION = "loadmodel"

    def loadmodel(self, vocoder_model):
        return ("a path",)


class MMAudioFeatureUtilsLoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"vae_model": FILES, "synchformer_model": FILES, "clip_model": FILES},
            "optional": {
                "bigvgan_vocoder_model": ("VOCODER_MODEL", {}),
                "mode": (["16k", "44k"], {"default": "44k"}),
                "precision": PRECISION,
            },
        }

    RETURN_TYPES = ("MMAUDIO_FEATUREUTILS",)
    RETURN_NAMES = ("mmaudio_featureutils",)
    FUNCTION = "loadmodel"

    def loadmodel(self, vae_model, precision, synchformer_model, clip_model, mode, bigvgan_vocoder_model=None):
        return (_module(mm.get_torch_device()),)


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
                "prompt": ("STRING", {"default": "", "multiline": True}),
                "negative_prompt": ("STRING", {"default": "", "multiline": True}),
                "mask_away_clip": ("BOOLEAN", {"default": False}),
                "force_offload": ("BOOLEAN", {"default": True}),
            },
            "optional": {"images": ("IMAGE",)},
        }

    RETURN_TYPES = ("AUDIO",)
    RETURN_NAMES = ("audio",)
    FUNCTION = "sample"

    def sample(self, mmaudio_model, feature_utils, force_offload=True, **_):
        device, offload_device = mm.get_torch_device(), mm.unet_offload_device()
        audio = mmaudio_model.to(device)(feature_utils.to(device)(torch.ones(1, 8, device=device)))
        if force_offload:
            mmaudio_model.to(offload_device)
            feature_utils.to(offload_device)
        return ({"waveform": audio, "sample_rate": 44100},)


NODE_CLASS_MAPPINGS = {
    each.__name__: each
    for each in (MMAudioModelLoader, MMAudioVoCoderLoader, MMAudioFeatureUtilsLoader, MMAudioSampler)
}
