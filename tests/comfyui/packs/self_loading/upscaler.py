"""Writes the first device's number in its code, with a model in a global: FlashVSR, IndexTTS."""

import torch

from .network import Network

_model = None


class Upscale:
    RETURN_TYPES = ("IMAGE", "STRING")
    FUNCTION = "upscale"
    CATEGORY = "self loading"
    INPUT_TYPES = classmethod(lambda cls: {"required": {"image": ("IMAGE",), "mixes": ("BOOLEAN", {"default": False})}})

    def upscale(self, image, mixes):
        global _model
        if _model is None:
            _model = Network().to("npu") if mixes else Network().to("npu:0")
        image = image.to("npu:0")
        result = _model(image)
        return result, f"{result.device} {torch.zeros(1, device='npu:0').device}"
