"""A stand-in for PuLID_ComfyUI: loaders that choose no device, and an Apply node that moves what they gave."""

from __future__ import annotations

import comfy.model_management as mm
import torch


class _Face:
    """Stands for an onnxruntime session, which lies where its provider says."""


class PulidModelLoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"pulid_file": (["a"],)}}

    RETURN_TYPES = ("PULID",)
    FUNCTION = "load_model"
    CATEGORY = "pulid"

    def load_model(self, pulid_file):
        return (torch.nn.Linear(4, 4),)


class PulidInsightFaceLoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"provider": (["CPU", "CUDA", "ROCM", "CoreML"],)}}

    RETURN_TYPES = ("FACEANALYSIS",)
    FUNCTION = "load_insightface"
    CATEGORY = "pulid"

    def load_insightface(self, provider):
        return (_Face(),)


class PulidEvaClipLoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    RETURN_TYPES = ("EVA_CLIP",)
    FUNCTION = "load_eva_clip"
    CATEGORY = "pulid"

    def load_eva_clip(self):
        return (torch.nn.Linear(4, 4),)


class ApplyPulid:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "pulid": ("PULID",), "eva_clip": ("EVA_CLIP",)}}

    RETURN_TYPES = ("MODEL", "STRING")
    FUNCTION = "apply_pulid"
    CATEGORY = "pulid"

    def apply_pulid(self, model, pulid, eva_clip):
        device = mm.get_torch_device()
        return (model, str(pulid.to(device).weight.device))


NODE_CLASS_MAPPINGS = {
    node.__name__: node for node in (PulidModelLoader, PulidInsightFaceLoader, PulidEvaClipLoader, ApplyPulid)
}
