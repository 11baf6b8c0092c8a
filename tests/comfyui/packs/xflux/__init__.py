"""A stand-in for x-flux-comfyui: the same names, inputs and results, with a made-up ControlNet.

Its nodes ask for the device again and move the whole Flux model there.
"""

import comfy.model_management as mm
import torch


class LoadFluxControlNet:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model_name": (["flux-dev", "flux-dev-fp8", "flux-schnell"],),
                "controlnet_path": (["made up"],),
            }
        }

    RETURN_TYPES = ("FluxControlNet",)
    RETURN_NAMES = ("ControlNet",)
    FUNCTION = "loadmodel"

    def loadmodel(self, model_name, controlnet_path):
        module = torch.nn.Linear(8, 8).requires_grad_(False).to(mm.get_torch_device())
        return ({"model": module, "control_type": "canny"},)


class ApplyFluxControlNet:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "controlnet": ("FluxControlNet",),
                "image": ("IMAGE",),
                "strength": ("FLOAT", {"default": 1.0}),
            },
            "optional": {"controlnet_condition": ("ControlNetCondition", {"default": None})},
        }

    RETURN_TYPES = ("ControlNetCondition",)
    RETURN_NAMES = ("controlnet_condition",)
    FUNCTION = "prepare"

    def prepare(self, controlnet, image, strength, controlnet_condition=None):
        condition = {"img": image.to(mm.get_torch_device()), "model": controlnet["model"]}
        return ((controlnet_condition or []) + [condition],)


class LoadFluxLora:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("MODEL",),
                "lora_name": (["made up"],),
                "strength_model": ("FLOAT", {"default": 1.0}),
            }
        }

    RETURN_TYPES = ("MODEL",)
    RETURN_NAMES = ("MODEL",)
    FUNCTION = "loadmodel"

    def loadmodel(self, model, lora_name, strength_model):
        model.model.to(mm.get_torch_device())
        return (model.clone(),)


class XlabsSampler:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("MODEL",),
                "conditioning": ("CONDITIONING",),
                "neg_conditioning": ("CONDITIONING",),
                "noise_seed": ("INT", {"default": 0}),
                "steps": ("INT", {"default": 20}),
                "timestep_to_start_cfg": ("INT", {"default": 20}),
                "true_gs": ("FLOAT", {"default": 3}),
                "image_to_image_strength": ("FLOAT", {"default": 0.0}),
                "denoise_strength": ("FLOAT", {"default": 1.0}),
            },
            "optional": {
                "latent_image": ("LATENT", {"default": None}),
                "controlnet_condition": ("ControlNetCondition", {"default": None}),
            },
        }

    RETURN_TYPES = ("LATENT",)
    RETURN_NAMES = ("latent",)
    FUNCTION = "sampling"

    def sampling(self, model, controlnet_condition=None, **_):
        device = mm.get_torch_device()
        model.model.to(device)
        noise = torch.ones(1, 8, device=device)
        for condition in controlnet_condition or []:
            noise = condition["model"].to(device)(noise)
        return ({"samples": noise},)


NODE_CLASS_MAPPINGS = {
    "FluxLoraLoader": LoadFluxLora,
    "LoadFluxControlNet": LoadFluxControlNet,
    "ApplyFluxControlNet": ApplyFluxControlNet,
    "XlabsSampler": XlabsSampler,
}
