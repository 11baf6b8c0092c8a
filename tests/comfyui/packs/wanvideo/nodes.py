"""The nodes that encode and decode, and the loaders of the pack's sub-packages."""

import comfy.model_management as mm
import torch

from .nodes_model_loading import CHOICE, PRECISIONS, LoadWanVideoT5TextEncoder

device = mm.get_torch_device()
offload_device = mm.unet_offload_device()


def _image(module, x):
    return module.to(device)(x.to(device))


class _TextEncode:
    """What the nodes that take a text encoder have in common."""

    TEXTS = ("positive_prompt", "negative_prompt")

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {name: ("STRING", {"default": "", "multiline": True}) for name in cls.TEXTS},
            "optional": {
                "t5": ("WANTEXTENCODER",),
                "force_offload": ("BOOLEAN", {"default": True}),
                "model_to_offload": ("WANVIDEOMODEL", {}),
                "use_disk_cache": ("BOOLEAN", {"default": False}),
                "device": (["gpu", "cpu"], {"default": "gpu"}),
            },
        }

    RETURN_TYPES = ("WANVIDEOTEXTEMBEDS",)
    RETURN_NAMES = ("text_embeds",)
    FUNCTION = "process"

    def encode(self, t5, force_offload, device):
        where = mm.get_torch_device() if device == "gpu" else torch.device("cpu")
        encoder = t5["model"]
        context = encoder.model.to(where)(torch.ones(1, 8, device=where))
        if force_offload:
            encoder.model.to(offload_device)
        return ({"prompt_embeds": context, "negative_prompt_embeds": context},)


class WanVideoTextEncode(_TextEncode):
    def process(
        self,
        positive_prompt,
        negative_prompt,
        t5=None,
        force_offload=True,
        model_to_offload=None,
        use_disk_cache=False,
        device="gpu",
    ):
        return self.encode(t5, force_offload, device)


class WanVideoTextEncodeSingle(_TextEncode):
    TEXTS = ("prompt",)

    def process(self, prompt, t5=None, force_offload=True, model_to_offload=None, use_disk_cache=False, device="gpu"):
        return self.encode(t5, force_offload, device)


class WanVideoTextEncodeCached:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model_name": (["made up"], {}),
                "precision": (["fp32", "bf16"], {"default": "bf16"}),
                "positive_prompt": ("STRING", {"default": ""}),
                "negative_prompt": ("STRING", {"default": ""}),
                "quantization": (["disabled"], {"default": "disabled"}),
                "use_disk_cache": ("BOOLEAN", {"default": True}),
                "device": (["gpu", "cpu"], {"default": "gpu"}),
            },
            "optional": {"extender_args": ("WANVIDEOPROMPTEXTENDER_ARGS", {})},
        }

    RETURN_TYPES = ("WANVIDEOTEXTEMBEDS", "WANVIDEOTEXTEMBEDS", "STRING")
    RETURN_NAMES = ("text_embeds", "negative_text_embeds", "positive_prompt")
    FUNCTION = "process"

    def process(self, model_name, precision, positive_prompt, negative_prompt, device="gpu", **_):
        (t5,) = LoadWanVideoT5TextEncoder().loadmodel(model_name, precision, "main_device")
        (embeds,) = WanVideoTextEncode().process(
            positive_prompt, negative_prompt, t5, force_offload=False, device=device
        )
        return (embeds, {"prompt_embeds": embeds["negative_prompt_embeds"]}, positive_prompt)


class WanVideoClipVisionEncode:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "clip_vision": ("CLIP_VISION",),
                "image_1": ("IMAGE", {}),
                "strength_1": ("FLOAT", {"default": 1.0}),
                "strength_2": ("FLOAT", {"default": 1.0}),
                "crop": (["center", "disabled"], {"default": "center"}),
                "combine_embeds": (["average", "sum", "concat", "batch"], {"default": "average"}),
                "force_offload": ("BOOLEAN", {"default": True}),
            },
            "optional": {
                "image_2": ("IMAGE",),
                "negative_image": ("IMAGE", {}),
                "tiles": ("INT", {"default": 0}),
                "ratio": ("FLOAT", {"default": 0.5}),
            },
        }

    RETURN_TYPES = ("WANVIDIMAGE_CLIPEMBEDS",)
    RETURN_NAMES = ("image_embeds",)
    FUNCTION = "process"

    def process(self, clip_vision, image_1, force_offload=True, **_):
        embeds = _image(clip_vision.model, image_1)
        if force_offload:
            clip_vision.model.to(offload_device)
        return ({"clip_embeds": embeds},)


TILES = {
    "enable_vae_tiling": ("BOOLEAN", {"default": False}),
    "tile_x": ("INT", {"default": 272}),
    "tile_y": ("INT", {"default": 272}),
    "tile_stride_x": ("INT", {"default": 144}),
    "tile_stride_y": ("INT", {"default": 128}),
}


class WanVideoDecode:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"vae": ("WANVAE",), "samples": ("LATENT",), **TILES},
            "optional": {"normalization": (["default", "minmax"], {})},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, tile_x, tile_y, tile_stride_x, tile_stride_y):
        return tile_x > tile_stride_x or "Tile width must be larger than the tile stride width."

    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)
    FUNCTION = "decode"

    def decode(self, vae, samples, enable_vae_tiling, tile_x, tile_y, tile_stride_x, tile_stride_y, **_):
        return (_image(vae, samples["samples"]),)


class WanVideoEncode:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"vae": ("WANVAE",), "image": ("IMAGE",), **TILES},
            "optional": {
                "noise_aug_strength": ("FLOAT", {"default": 0.0}),
                "latent_strength": ("FLOAT", {"default": 1.0}),
                "mask": ("MASK",),
            },
        }

    RETURN_TYPES = ("LATENT",)
    RETURN_NAMES = ("samples",)
    FUNCTION = "encode"

    def encode(self, vae, image, **_):
        from . import late

        return ({"samples": vae.to(late.device)(image.to(late.device))},)


class WanVideoEmptyEmbeds:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "width": ("INT", {"default": 832}),
                "height": ("INT", {"default": 480}),
                "num_frames": ("INT", {"default": 81}),
            },
            "optional": {"control_embeds": ("WANVIDIMAGE_EMBEDS", {}), "extra_latents": ("LATENT", {})},
        }

    RETURN_TYPES = ("WANVIDIMAGE_EMBEDS",)
    RETURN_NAMES = ("image_embeds",)
    FUNCTION = "process"

    def process(self, num_frames, width, height, control_embeds=None, extra_latents=None):
        return ({"target_shape": (16, num_frames, height, width)},)


class WanVideoVACEEncode:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "vae": ("WANVAE",),
                "width": ("INT", {"default": 832}),
                "height": ("INT", {"default": 480}),
                "num_frames": ("INT", {"default": 81}),
                "strength": ("FLOAT", {"default": 1.0}),
                "vace_start_percent": ("FLOAT", {"default": 0.0}),
                "vace_end_percent": ("FLOAT", {"default": 1.0}),
            },
            "optional": {
                "input_frames": ("IMAGE",),
                "ref_images": ("IMAGE",),
                "input_masks": ("MASK",),
                "prev_vace_embeds": ("WANVIDIMAGE_EMBEDS",),
                "tiled_vae": ("BOOLEAN", {"default": False}),
            },
        }

    RETURN_TYPES = ("WANVIDIMAGE_EMBEDS",)
    RETURN_NAMES = ("vace_embeds",)
    FUNCTION = "process"

    def process(self, vae, width, height, num_frames, **_):
        return ({"vace_context": _image(vae, torch.ones(1, 8))},)


class WanVideoImageToVideoEncode:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "width": ("INT", {"default": 832}),
                "height": ("INT", {"default": 480}),
                "num_frames": ("INT", {"default": 81}),
                "noise_aug_strength": ("FLOAT", {"default": 0.0}),
                "start_latent_strength": ("FLOAT", {"default": 1.0}),
                "end_latent_strength": ("FLOAT", {"default": 1.0}),
                "force_offload": ("BOOLEAN", {"default": True}),
            },
            "optional": {
                "vae": ("WANVAE",),
                "clip_embeds": ("WANVIDIMAGE_CLIPEMBEDS", {}),
                "start_image": ("IMAGE", {}),
                "end_image": ("IMAGE", {}),
                "control_embeds": ("WANVIDIMAGE_EMBEDS", {}),
                "fun_or_fl2v_model": ("BOOLEAN", {"default": True}),
                "temporal_mask": ("MASK", {}),
                "extra_latents": ("LATENT", {}),
                "tiled_vae": ("BOOLEAN", {"default": False}),
                "add_cond_latents": ("ADD_COND_LATENTS", {}),
                "augment_empty_frames": ("FLOAT", {"default": 0.0}),
                "empty_frame_pad_image": ("IMAGE", {}),
            },
        }

    RETURN_TYPES = ("WANVIDIMAGE_EMBEDS",)
    RETURN_NAMES = ("image_embeds",)
    FUNCTION = "process"

    def process(self, width, height, num_frames, start_image=None, vae=None, **_):
        return ({"image_embeds": _image(vae, start_image)},)


def _loader(name, output, *, inputs, names):
    """A loader whose module goes to the device at once."""

    def loadmodel(self, **_):
        return (torch.nn.Linear(8, 8).requires_grad_(False).to(device),)

    loader = {
        "INPUT_TYPES": classmethod(lambda cls: inputs),
        "RETURN_TYPES": (output,),
        "RETURN_NAMES": (names,),
        "FUNCTION": "loadmodel",
        "loadmodel": loadmodel,
        "__module__": __name__,
    }
    return type(name, (), loader)


_BASE = {"model": (["made up"], {}), "base_precision": (PRECISIONS, {"default": "fp16"})}
_QUANTIZED = {**_BASE, "quantization": (["disabled"], {"default": "disabled"}), "load_device": (CHOICE, {})}
_UNI3C = {
    "required": {**_QUANTIZED, "attention_mode": (["sdpa", "sageattn"], {"default": "sdpa"})},
    "optional": {"compile_args": ("WANCOMPILEARGS",)},
}
SUB_PACKAGES = (
    _loader("WanVideoControlnetLoader", "WANVIDEOCONTROLNET", inputs={"required": _QUANTIZED}, names="controlnet"),
    _loader("WanVideoUni3C_ControlnetLoader", "WANVIDEOCONTROLNET", inputs=_UNI3C, names="controlnet"),
    _loader("FantasyTalkingModelLoader", "FANTASYTALKINGMODEL", inputs={"required": _BASE}, names="model"),
    *(
        _loader(
            name,
            "WAV2VECMODEL",
            inputs={"required": {**_BASE, "load_device": (CHOICE, {"default": "main_device"})}},
            names="wav2vec_model",
        )
        for name in ("Wav2VecModelLoader", "DownloadAndLoadWav2VecModel")
    ),
)

NODE_CLASS_MAPPINGS = {
    each.__name__: each
    for each in (
        WanVideoTextEncode,
        WanVideoTextEncodeSingle,
        WanVideoTextEncodeCached,
        WanVideoClipVisionEncode,
        WanVideoDecode,
        WanVideoEncode,
        WanVideoEmptyEmbeds,
        WanVideoVACEEncode,
        WanVideoImageToVideoEncode,
        *SUB_PACKAGES,
    )
}
