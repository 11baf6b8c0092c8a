"""Keeps its model in the node object, and says the device's family alone: QwenVL, JoyCaption."""

import torch

from .network import Network

FAMILY = "npu"


class Caption:
    RETURN_TYPES = ("STRING", "IMAGE")
    FUNCTION = "caption"
    CATEGORY = "self loading"
    INPUT_TYPES = classmethod(
        lambda cls: {
            "required": {"image": ("IMAGE",), "words": ("STRING", {"default": "a"})},
            "optional": {"keep": ("BOOLEAN", {"default": True})},
        }
    )

    def __init__(self):
        self.model = None

    def caption(self, image, words, keep=True):
        if words == "fail":
            raise ValueError("the pack's own error")
        if self.model is None:
            self.model = Network().to(FAMILY)
        seen = self.model(image.to(FAMILY))
        mask = torch.ones(1, device=FAMILY)
        if not keep:
            self.model = None
        return f"{words} on {seen.device}, {mask.device}", seen
