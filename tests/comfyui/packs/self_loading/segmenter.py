"""Hands its model on as a type of its own, and a later node asks for the device again: SAM2, Impact."""

import comfy.model_management as mm
import torch

from .network import Network


class Loader:
    RETURN_TYPES = ("SELF_SEGMENTER",)
    FUNCTION = "load"
    CATEGORY = "self loading"
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})

    def load(self):
        device = torch.device("npu")
        return ({"model": Network().to(device), "device": device, "dtype": torch.float32},)


class Segment:
    RETURN_TYPES = ("MASK", "STRING")
    FUNCTION = "segment"
    CATEGORY = "self loading"
    INPUT_TYPES = classmethod(lambda cls: {"required": {"segmenter": ("SELF_SEGMENTER",), "image": ("IMAGE",)}})

    def segment(self, segmenter, image):
        seen = segmenter["model"](image.to(mm.get_torch_device()))
        again = segmenter["model"](image.to(segmenter["device"]))
        return (seen + again)[..., 0], str(seen.device)
