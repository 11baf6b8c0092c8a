"""A stand-in for ComfyUI-Florence2: the same names, inputs and results, with a made-up model.

Its loader knows its models only once its inputs have been listed, waits on the offload device, and asks for both
devices again when the model runs.
"""

import comfy.model_management as mm
import torch

ATTENTION = (["flash_attention_2", "sdpa", "eager"], {"default": "sdpa"})


class _Loader:
    RETURN_TYPES = ("FL2MODEL",)
    RETURN_NAMES = ("florence2_model",)
    FUNCTION = "loadmodel"

    @classmethod
    def INPUT_TYPES(cls):
        cls.known = ["made up", "broken", "microsoft/Florence-2-base"]
        return {
            "required": {"model": (cls.known, {}), "precision": (["fp16", "bf16", "fp32"],), "attention": ATTENTION},
            "optional": {"lora": ("PEFTLORA",), "convert_to_safetensors": ("BOOLEAN", {"default": False})},
        }

    def loadmodel(self, model, precision, attention, lora=None, convert_to_safetensors=False):
        if model == "broken":
            raise ValueError("a broken file")
        assert model in self.known
        module = torch.nn.Linear(8, 8).requires_grad_(False).to(mm.unet_offload_device())
        return ({"model": module, "processor": object(), "dtype": torch.float32},)


class Florence2ModelLoader(_Loader):
    pass


class DownloadAndLoadFlorence2Model(_Loader):
    pass


class Florence2Run:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "image": ("IMAGE",),
                "florence2_model": ("FL2MODEL",),
                "text_input": ("STRING", {"default": "", "multiline": True}),
                "task": (["region_caption", "caption", "detailed_caption"],),
                "fill_mask": ("BOOLEAN", {"default": True}),
            },
            "optional": {
                "keep_model_loaded": ("BOOLEAN", {"default": False}),
                "max_new_tokens": ("INT", {"default": 1024}),
                "num_beams": ("INT", {"default": 3}),
                "do_sample": ("BOOLEAN", {"default": True}),
                "output_mask_select": ("STRING", {"default": ""}),
                "seed": ("INT", {"default": 1}),
            },
        }

    RETURN_TYPES = ("IMAGE", "MASK", "STRING", "JSON")
    RETURN_NAMES = ("image", "mask", "caption", "data")
    FUNCTION = "encode"

    def encode(self, image, florence2_model, text_input, task, fill_mask, keep_model_loaded=False, **_):
        device, offload_device = mm.get_torch_device(), mm.unet_offload_device()
        model = florence2_model["model"].to(device)
        result = model(image.to(device))
        if not keep_model_loaded:
            model.to(offload_device)
        return (result.cpu(), None, str(result.device), str(next(model.parameters()).device))


NODE_CLASS_MAPPINGS = {
    each.__name__: each for each in (Florence2ModelLoader, DownloadAndLoadFlorence2Model, Florence2Run)
}
