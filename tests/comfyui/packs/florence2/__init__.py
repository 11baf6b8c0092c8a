"""A stand-in for ComfyUI-Florence2: loaders that return a dictionary, and a run node that asks for the device again."""

from __future__ import annotations

import comfy.model_management as mm
import torch


class Florence2ModelLoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": (["a", "fails"],),
                "precision": (["fp16", "bf16", "fp32"],),
                "attention": (["flash_attention_2", "sdpa", "eager"], {"default": "sdpa"}),
            },
            "optional": {"lora": ("PEFTLORA",), "convert_to_safetensors": ("BOOLEAN", {"default": False})},
        }

    RETURN_TYPES = ("FL2MODEL",)
    RETURN_NAMES = ("florence2_model",)
    FUNCTION = "loadmodel"
    CATEGORY = "Florence2"

    def loadmodel(self, model, precision, attention, lora=None, convert_to_safetensors=False):
        offload_device = mm.unet_offload_device()
        if model == "fails":
            raise RuntimeError("no such model")
        return ({"model": torch.nn.Linear(4, 4).to(offload_device), "processor": object(), "dtype": torch.float32},)


class DownloadAndLoadFlorence2Model(Florence2ModelLoader):
    pass


class Florence2Run:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"image": ("IMAGE",), "florence2_model": ("FL2MODEL",)},
            "optional": {"keep_model_loaded": ("BOOLEAN", {"default": False})},
        }

    RETURN_TYPES = ("IMAGE", "STRING")
    FUNCTION = "encode"
    CATEGORY = "Florence2"

    def encode(self, image, florence2_model, keep_model_loaded=False):
        device, offload_device = mm.get_torch_device(), mm.unet_offload_device()
        model = florence2_model["model"].to(device)
        result = model(image.to(device)).cpu()
        used = str(model.weight.device)
        if not keep_model_loaded:
            model.to(offload_device)
        return (result, used)


NODE_CLASS_MAPPINGS = {
    node.__name__: node for node in (Florence2ModelLoader, DownloadAndLoadFlorence2Model, Florence2Run)
}
