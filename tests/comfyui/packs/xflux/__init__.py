"""A stand-in for x-flux-comfyui: a ControlNet in a dictionary, on its device at once, and nodes that ask again."""

from __future__ import annotations

import comfy.model_management as mm
import torch


class LoadFluxControlNet:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"model_name": (["flux-dev", "flux-dev-fp8", "flux-schnell"],), "controlnet_path": (["a"],)}
        }

    RETURN_TYPES = ("FluxControlNet",)
    RETURN_NAMES = ("ControlNet",)
    FUNCTION = "loadmodel"
    CATEGORY = "XLabsNodes"

    def loadmodel(self, model_name, controlnet_path):
        return ({"model": torch.nn.Linear(4, 4).to(mm.get_torch_device()), "control_type": "canny"},)


class ApplyFluxControlNet:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"controlnet": ("FluxControlNet",), "image": ("IMAGE",)}}

    RETURN_TYPES = ("ControlNetCondition",)
    FUNCTION = "prepare"
    CATEGORY = "XLabsNodes"

    def prepare(self, controlnet, image):
        image = image.to(mm.get_torch_device())
        return ({"controlnet": controlnet["model"], "hint": controlnet["model"](image)},)


NODE_CLASS_MAPPINGS = {node.__name__: node for node in (LoadFluxControlNet, ApplyFluxControlNet)}
