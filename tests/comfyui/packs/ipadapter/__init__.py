"""A stand-in for ComfyUI_IPAdapter_plus: the same names and inputs, with a small made-up adapter.

Its Apply node asks for the device, and the patches that it sets hold a module and tensors there.
"""

import comfy.model_management as mm
import torch
from comfy.ldm.modules.attention import optimized_attention

WIDTH = 16


class IPAdapter(torch.nn.Module):
    """Keys and values of the picture, for each patched attention."""

    def __init__(self, widths):
        super().__init__()
        torch.manual_seed(11)
        self.to_k = torch.nn.ModuleList(torch.nn.Linear(WIDTH, width, bias=False) for width in widths)
        self.to_v = torch.nn.ModuleList(torch.nn.Linear(WIDTH, width, bias=False) for width in widths)
        self.requires_grad_(False)


class Attn2Replace:
    def __init__(self, **kwargs):
        self.kwargs = [kwargs]

    def __call__(self, q, k, v, extra_options):
        heads, kwargs = extra_options["n_heads"], self.kwargs[0]
        adapter, place = kwargs["ipadapter"], kwargs["module_key"]
        out = optimized_attention(q, k, v, heads)
        ip_k, ip_v = adapter.to_k[place](kwargs["cond"]), adapter.to_v[place](kwargs["cond_alt"][3])
        ip_k, ip_v = (each.expand(len(q), -1, -1).to(q.dtype) for each in (ip_k, ip_v))
        return out + optimized_attention(q, ip_k, ip_v, heads) * kwargs["weight"]


class IPAdapterModelLoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"ipadapter_file": (["made up"],)}}

    RETURN_TYPES = ("IPADAPTER",)
    FUNCTION = "load_ipadapter_model"

    def load_ipadapter_model(self, ipadapter_file):
        return ({"image_proj": {}, "ip_adapter": {}},)


class IPAdapterInsightFaceLoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"provider": (["CPU", "CUDA", "ROCM"],), "model_name": (["buffalo_l", "antelopev2"],)}}

    RETURN_TYPES = ("INSIGHTFACE",)
    FUNCTION = "load_insightface"

    def load_insightface(self, provider, model_name):
        return (provider,)


class IPAdapterAdvanced:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("MODEL",),
                "ipadapter": ("IPADAPTER",),
                "image": ("IMAGE",),
                "weight": ("FLOAT", {"default": 1.0}),
                "weight_type": (["linear"],),
                "combine_embeds": (["concat"],),
                "start_at": ("FLOAT", {"default": 0.0}),
                "end_at": ("FLOAT", {"default": 1.0}),
                "embeds_scaling": (["V only"],),
            },
            "optional": {
                "image_negative": ("IMAGE",),
                "attn_mask": ("MASK",),
                "clip_vision": ("CLIP_VISION",),
            },
        }

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "apply_ipadapter"

    def apply_ipadapter(self, model, ipadapter, image, weight=1.0, clip_vision=None, **_):
        device = mm.get_torch_device()
        changed = model.clone()
        attentions = {
            name: module.to_q.out_features
            for name, module in model.model.diffusion_model.named_modules()
            if name.endswith("attn2")
        }
        adapter = IPAdapter(attentions.values()).to(device)
        seen = (
            clip_vision.encode_image(image).penultimate_hidden_states if clip_vision is not None else image.flatten(1)
        )
        cond = seen.flatten()[: 4 * WIDTH].reshape(1, 4, WIDTH).to(device, dtype=torch.float32)
        for number, name in enumerate(attentions):
            part, *index = name.split(".")
            held = {"ipadapter": adapter, "module_key": number, "cond": cond, "cond_alt": {3: cond * 2}}
            key = (part.removesuffix("_blocks").removesuffix("_block"), int(index[0]))
            changed.set_model_attn2_replace(Attn2Replace(weight=weight, **held), *key)
        return (changed,)


NODE_CLASS_MAPPINGS = {
    each.__name__: each for each in (IPAdapterModelLoader, IPAdapterInsightFaceLoader, IPAdapterAdvanced)
}
