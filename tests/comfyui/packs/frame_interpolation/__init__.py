"""A stand-in for ComfyUI-Frame-Interpolation: its RIFE node's inputs and outputs, for the example workflow."""


class Rife:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "vfi"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "ckpt_name": (["rife47.pth", "rife49.pth"], {"default": "rife49.pth"}),
                "frames": ("IMAGE",),
                "clear_cache_after_n_frames": ("INT", {"default": 10, "min": 1, "max": 1000}),
                "multiplier": ("INT", {"default": 2, "min": 1}),
                "fast_mode": ("BOOLEAN", {"default": True}),
                "ensemble": ("BOOLEAN", {"default": True}),
                "scale_factor": ([0.25, 0.5, 1.0, 2.0, 4.0], {"default": 1.0}),
                "dtype": (["float32", "float16", "bfloat16"], {"default": "float32"}),
                "torch_compile": ("BOOLEAN", {"default": False}),
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 64}),
            },
            "optional": {"optional_interpolation_states": ("INTERPOLATION_STATES",)},
        }

    def vfi(self, **inputs):
        raise NotImplementedError("a stand-in for the example workflow")


NODE_CLASS_MAPPINGS = {"RIFE VFI": Rife}
