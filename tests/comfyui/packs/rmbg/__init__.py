"""A stand-in for ComfyUI-RMBG: its first node's inputs and outputs, for the example workflow."""


class RMBG:
    RETURN_TYPES = ("IMAGE", "MASK", "IMAGE")
    RETURN_NAMES = ("IMAGE", "MASK", "MASK_IMAGE")
    FUNCTION = "process_image"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"image": ("IMAGE",), "model": (["RMBG-2.0", "INSPYRENET", "BEN", "BEN2"],)},
            "optional": {
                "sensitivity": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}),
                "process_res": ("INT", {"default": 1024, "min": 256, "max": 2048, "step": 128}),
                "mask_blur": ("INT", {"default": 0, "min": 0, "max": 64}),
                "mask_offset": ("INT", {"default": 0, "min": -64, "max": 64}),
                "invert_output": ("BOOLEAN", {"default": False}),
                "refine_foreground": ("BOOLEAN", {"default": False}),
                "background": (["Alpha", "Color"], {"default": "Alpha"}),
                "background_color": ("COLORCODE", {"default": "#222222"}),
            },
        }

    def process_image(self, **inputs):
        raise NotImplementedError("a stand-in for the example workflow")


NODE_CLASS_MAPPINGS = {"RMBG": RMBG}
