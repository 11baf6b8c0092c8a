"""A stand-in for ComfyUI-QwenVL: its node's inputs and outputs, for the example workflow."""

MODELS = ["Qwen3-VL-2B-Instruct", "Qwen3-VL-4B-Instruct"]
PRECISIONS = ["4-bit (VRAM-friendly)", "8-bit (Balanced)", "None (FP16)"]


class QwenVL:
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("RESPONSE",)
    FUNCTION = "process"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model_name": (MODELS, {"default": MODELS[0]}),
                "quantization": (PRECISIONS, {"default": PRECISIONS[-1]}),
                "attention_mode": (["auto", "sage", "flash_attention_2", "sdpa"], {"default": "auto"}),
                "preset_prompt": (["🖼️ Detailed Description"], {"default": "🖼️ Detailed Description"}),
                "custom_prompt": ("STRING", {"default": "", "multiline": True}),
                "max_tokens": ("INT", {"default": 512, "min": 64, "max": 2048}),
                "keep_model_loaded": ("BOOLEAN", {"default": True}),
                "seed": ("INT", {"default": 1, "min": 1, "max": 2**32 - 1}),
            },
            "optional": {"image": ("IMAGE",), "video": ("IMAGE",)},
        }

    def process(self, **inputs):
        raise NotImplementedError("a stand-in for the example workflow")


NODE_CLASS_MAPPINGS = {"AILab_QwenVL": QwenVL}
