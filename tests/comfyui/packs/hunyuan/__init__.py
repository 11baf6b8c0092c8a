"""A stand-in for ComfyUI-HunyuanVideoWrapper: a patcher, a bare module and a dictionary, and nodes that ask again."""

from __future__ import annotations

import comfy.model_management as mm
import comfy.model_patcher
import torch


class _Loader:
    FUNCTION = "loadmodel"
    CATEGORY = "HunyuanVideoWrapper"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"load_device": (["main_device", "offload_device"], {"default": "main_device"})}}

    def loadmodel(self, load_device):
        device = mm.get_torch_device() if load_device == "main_device" else mm.unet_offload_device()
        return (self.wrapped(torch.nn.Linear(4, 4).to(device)),)


class HyVideoModelLoader(_Loader):
    RETURN_TYPES = ("HYVIDEOMODEL",)

    def wrapped(self, module):
        return comfy.model_patcher.ModelPatcher(module, mm.get_torch_device(), mm.unet_offload_device())


class HyVideoVAELoader(_Loader):
    RETURN_TYPES = ("VAE",)

    def wrapped(self, module):
        return module


class DownloadAndLoadHyVideoTextEncoder(_Loader):
    RETURN_TYPES = ("HYVIDTEXTENCODER",)

    def wrapped(self, module):
        return {"text_encoder": module, "text_encoder_2": None}


class _Consumer:
    RETURN_TYPES = ("STRING",)
    FUNCTION = "process"
    CATEGORY = "HunyuanVideoWrapper"

    def process(self, **inputs):
        return (str(self.device()),)


class HyVideoSampler(_Consumer):
    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("HYVIDEOMODEL",)}})
    device = staticmethod(lambda: mm.get_torch_device())


class HyVideoDecode(_Consumer):
    INPUT_TYPES = classmethod(lambda cls: {"required": {"vae": ("VAE",)}})
    device = staticmethod(lambda: mm.get_torch_device())


class HyVideoTextEncode(_Consumer):
    INPUT_TYPES = classmethod(lambda cls: {"required": {"text_encoders": ("HYVIDTEXTENCODER",)}})
    device = staticmethod(lambda: mm.text_encoder_device())


NODE_CLASS_MAPPINGS = {
    node.__name__: node
    for node in (
        HyVideoModelLoader,
        HyVideoVAELoader,
        DownloadAndLoadHyVideoTextEncoder,
        HyVideoSampler,
        HyVideoDecode,
        HyVideoTextEncode,
    )
}
