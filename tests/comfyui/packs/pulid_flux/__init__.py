"""A stand-in for ComfyUI-PuLID-Flux: the same names and inputs, with a small made-up encoder.

Apply asks for the device, and hangs its attention and what it saw on the diffusion model itself, past ComfyUI.
"""

import comfy.model_management as mm
import torch

WIDTH = 128


class PulidFluxModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(12)
        self.encoder = torch.nn.Linear(8, WIDTH)
        self.pulid_ca = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.requires_grad_(False)


class PulidFluxModelLoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"pulid_file": (["made up"],)}}

    RETURN_TYPES = ("PULIDFLUX",)
    FUNCTION = "load_model"

    def load_model(self, pulid_file):
        return (PulidFluxModel(),)


class ApplyPulidFlux:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("MODEL",),
                "pulid_flux": ("PULIDFLUX",),
                "eva_clip": ("EVA_CLIP",),
                "face_analysis": ("FACEANALYSIS",),
                "image": ("IMAGE",),
                "weight": ("FLOAT", {"default": 1.0}),
                "start_at": ("FLOAT", {"default": 0.0}),
                "end_at": ("FLOAT", {"default": 1.0}),
            },
            "optional": {"attn_mask": ("MASK",)},
        }

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "apply_pulid_flux"

    def apply_pulid_flux(self, model, pulid_flux, image, weight=1.0, unique_id=None, **_):
        device, dtype = mm.get_torch_device(), model.model.diffusion_model.dtype
        pulid_flux.to(device, dtype=dtype)
        flux = model.model.diffusion_model
        if not hasattr(flux, "pulid_ca"):
            flux.pulid_ca, flux.pulid_data = pulid_flux.pulid_ca, {}
            last = flux.double_blocks[-1]
            forward = last.forward

            def attended(*args, **kwargs):
                img, *rest = forward(*args, **kwargs)
                for data in flux.pulid_data.values():
                    for attention in flux.pulid_ca:
                        img = img + data["weight"] * attention(img + data["embedding"])
                return (img, *rest)

            last.forward = attended
        embedding = pulid_flux.encoder(image.flatten()[:8].to(device, dtype=dtype))
        flux.pulid_data[unique_id] = {"weight": weight, "embedding": embedding}
        return (model,)


NODE_CLASS_MAPPINGS = {each.__name__: each for each in (PulidFluxModelLoader, ApplyPulidFlux)}
