"""A stand-in for ComfyUI-VibeVoice: its node's inputs and outputs, for the example workflow."""

SCRIPT = "Speaker 1: Hello from ComfyUI!\nSpeaker 2: VibeVoice sounds amazing."


class VibeVoice:
    RETURN_TYPES = ("AUDIO",)
    FUNCTION = "generate_audio"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model_name": (["VibeVoice-1.5B", "VibeVoice-Large"],),
                "text": ("STRING", {"multiline": True, "default": SCRIPT}),
                "quantize_llm_4bit": ("BOOLEAN", {"default": False}),
                "attention_mode": (["eager", "sdpa", "flash_attention_2"], {"default": "sdpa"}),
                "cfg_scale": ("FLOAT", {"default": 1.3, "min": 0.1, "max": 50.0, "step": 0.05}),
                "inference_steps": ("INT", {"default": 10, "min": 1, "max": 500}),
                "seed": ("INT", {"default": 42, "min": 0, "max": 2**64 - 1, "control_after_generate": True}),
                "do_sample": ("BOOLEAN", {"default": True}),
                "temperature": ("FLOAT", {"default": 0.95, "min": 0.0, "max": 2.0, "step": 0.01}),
                "top_p": ("FLOAT", {"default": 0.95, "min": 0.0, "max": 1.0, "step": 0.01}),
                "top_k": ("INT", {"default": 0, "min": 0, "max": 500}),
                "force_offload": ("BOOLEAN", {"default": False}),
            },
            "optional": {f"speaker_{number}_voice": ("AUDIO",) for number in (1, 2, 3, 4)},
        }

    def generate_audio(self, **inputs):
        raise NotImplementedError("a stand-in for the example workflow")


NODE_CLASS_MAPPINGS = {"VibeVoiceTTS": VibeVoice}
