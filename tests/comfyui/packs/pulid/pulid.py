"""The nodes; Apply asks for the device and moves what the loaders made there."""

import comfy.model_management as mm
import torch

CPU_PROVIDER = "CPUExecutionProvider"


class FaceAnalysis:
    """Remembers how it was made, in the place of insightface's, which opens sessions of onnxruntime."""

    def __init__(self, name, root=".", allowed_modules=None, **options):
        self.options = options
        if options["providers"] == ["CoreMLExecutionProvider"]:
            raise ValueError("no such provider here")

    def prepare(self, ctx_id, det_size):
        pass


def _module():
    return torch.nn.Linear(8, 8).requires_grad_(False)


class PulidModelLoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"pulid_file": (["made up"],)}}

    RETURN_TYPES = ("PULID",)
    FUNCTION = "load_model"

    def load_model(self, pulid_file):
        return (_module().to(mm.get_torch_device()),)


class PulidInsightFaceLoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"provider": (["CPU", "CUDA", "ROCM", "CoreML"],)}}

    RETURN_TYPES = ("FACEANALYSIS",)
    FUNCTION = "load_insightface"

    def load_insightface(self, provider):
        model = FaceAnalysis(name="antelopev2", root=".", providers=[provider + "ExecutionProvider"])
        model.prepare(ctx_id=0, det_size=(640, 640))
        return (model,)


class PulidEvaClipLoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    RETURN_TYPES = ("EVA_CLIP",)
    FUNCTION = "load_eva_clip"

    def load_eva_clip(self):
        return (_module(),)


class ApplyPulid:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("MODEL",),
                "pulid": ("PULID",),
                "eva_clip": ("EVA_CLIP",),
                "face_analysis": ("FACEANALYSIS",),
                "image": ("IMAGE",),
                "method": (["fidelity", "style", "neutral"],),
                "weight": ("FLOAT", {"default": 1.0}),
                "start_at": ("FLOAT", {"default": 0.0}),
                "end_at": ("FLOAT", {"default": 1.0}),
            },
            "optional": {"attn_mask": ("MASK",)},
        }

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "apply_pulid"

    def apply_pulid(self, model, pulid, eva_clip, face_analysis, image, **_):
        device = mm.get_torch_device()
        changed = model.clone()
        faces = pulid.to(device)(eva_clip.to(device)(image.to(device)))
        changed.model_options["transformer_options"]["faces"] = faces
        return (changed,)


class ApplyPulidAdvanced(ApplyPulid):
    @classmethod
    def INPUT_TYPES(cls):
        inputs = ApplyPulid.INPUT_TYPES()["required"]
        shared = {name: inputs[name] for name in ("model", "pulid", "eva_clip", "face_analysis", "image", "weight")}
        return {
            "required": {
                **shared,
                "projection": (["ortho_v2", "ortho", "none"],),
                "fidelity": ("INT", {"default": 8}),
                "noise": ("FLOAT", {"default": 0.0}),
                "start_at": inputs["start_at"],
                "end_at": inputs["end_at"],
            },
            "optional": {"attn_mask": ("MASK",)},
        }


NODE_CLASS_MAPPINGS = {
    each.__name__: each
    for each in (PulidModelLoader, PulidInsightFaceLoader, PulidEvaClipLoader, ApplyPulid, ApplyPulidAdvanced)
}
