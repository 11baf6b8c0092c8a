"""Keeps its model in a dict whose key does not say where it is, and its device in a global: Frame-Interpolation."""

import comfy.model_management as mm

DEVICE = mm.get_torch_device()
DEVICES = {"vae": mm.get_torch_device(), "name": str(mm.get_torch_device())}
MODELS = {}


class Frames:
    RETURN_TYPES = ("IMAGE", "STRING")
    FUNCTION = "interpolate"
    CATEGORY = "self loading"
    INPUT_TYPES = classmethod(lambda cls: {"required": {"frames": ("IMAGE",), "model": (["small"],)}})

    def interpolate(self, frames, model):
        if model not in MODELS:
            from .architecture import build

            MODELS[model] = build().to(DEVICE)
        result = MODELS[model](frames.to(DEVICES["name"]))
        return result, f"{result.device} {DEVICES['vae']}"
