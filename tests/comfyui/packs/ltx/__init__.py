"""A stand-in for ComfyUI-LTXVideo: the loaders of its versions of 2025 (LTXVLoader) and 2026 together.

The checkpoint and the text encoder are core's own; the upscaler is a V3 node; the prompt enhancer is a made-up module.
"""

import comfy.model_management as mm
import comfy.model_patcher
import comfy.sd
import folder_paths
import nodes
import torch
from comfy_api.latest import io


class AnyType(str):
    def __ne__(self, other):
        return False


DEPENDENCIES = (AnyType("*"), {})


class LTXVLoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "ckpt_name": (folder_paths.get_filename_list("checkpoints"), {}),
                "dtype": (["bfloat16", "float32"], {"default": "bfloat16"}),
            }
        }

    RETURN_TYPES = ("MODEL", "VAE")
    RETURN_NAMES = ("model", "vae")
    FUNCTION = "load"

    def load(self, ckpt_name, dtype):
        model, _, vae = nodes.CheckpointLoaderSimple().load_checkpoint(ckpt_name)
        return (model, vae)


class LowVRAMCheckpointLoader(nodes.CheckpointLoaderSimple):
    @classmethod
    def INPUT_TYPES(cls):
        return {**super().INPUT_TYPES(), "optional": {"dependencies": DEPENDENCIES}}

    FUNCTION = "load_checkpoint_sequentially"

    def load_checkpoint_sequentially(self, ckpt_name, dependencies=None):
        return super().load_checkpoint(ckpt_name)


class LowVRAMAudioVAELoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"ckpt_name": (folder_paths.get_filename_list("checkpoints"), {})},
            "optional": {"dependencies": DEPENDENCIES},
        }

    RETURN_TYPES = ("VAE",)
    RETURN_NAMES = ("audio_vae",)
    FUNCTION = "load_audio_vae_sequentially"

    def load_audio_vae_sequentially(self, ckpt_name, dependencies=None):
        return (nodes.CheckpointLoaderSimple().load_checkpoint(ckpt_name)[2],)


class Upsampler(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.res_blocks = torch.nn.ModuleList(torch.nn.Linear(64, 64) for _ in range(4))


class LowVRAMLatentUpscaleModelLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LowVRAMLatentUpscaleModelLoader",
            inputs=[io.Combo.Input("model_name", options=["made up"]), io.AnyType.Input("dependencies", optional=True)],
            outputs=[io.LatentUpscaleModel.Output()],
        )

    @classmethod
    def execute(cls, model_name, dependencies=None):
        model = Upsampler().requires_grad_(False)
        return io.NodeOutput(comfy.model_patcher.ModelPatcher(model, mm.get_torch_device(), mm.unet_offload_device()))


class LTXVGemmaCLIPModelLoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "gemma_path": (folder_paths.get_filename_list("text_encoders"), {}),
                "ltxv_path": (folder_paths.get_filename_list("checkpoints"), {}),
                "max_length": ("INT", {"default": 1024}),
            }
        }

    RETURN_TYPES = ("CLIP",)
    RETURN_NAMES = ("clip",)
    FUNCTION = "load_model"

    def load_model(self, gemma_path, ltxv_path, max_length):
        return (nodes.CheckpointLoaderSimple().load_checkpoint(ltxv_path)[1],)


class LTXVPromptEnhancerLoader:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "llm_name": ("STRING", {"default": "made up"}),
                "image_captioner_name": ("STRING", {"default": "made up"}),
            }
        }

    RETURN_TYPES = ("LTXV_PROMPT_ENHANCER",)
    RETURN_NAMES = ("prompt_enhancer",)
    FUNCTION = "load"

    def load(self, llm_name, image_captioner_name):
        enhancer = torch.nn.Linear(8, 8).requires_grad_(False)
        return (comfy.model_patcher.ModelPatcher(enhancer, mm.get_torch_device(), mm.vae_offload_device()),)


class LTXVPromptEnhancer:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "prompt": ("STRING", {}),
                "prompt_enhancer": ("LTXV_PROMPT_ENHANCER",),
                "max_resulting_tokens": ("INT", {"default": 256}),
            },
            "optional": {"image_prompt": ("IMAGE",)},
        }

    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("str",)
    FUNCTION = "enhance"

    def enhance(self, prompt, prompt_enhancer, max_resulting_tokens, image_prompt=None):
        mm.free_memory(1, mm.get_torch_device())
        mm.load_models_gpu([prompt_enhancer])
        return (f"{prompt} on {next(prompt_enhancer.model.parameters()).device}, room on {mm.get_torch_device()}",)


NODE_CLASS_MAPPINGS = {
    each.__name__: each
    for each in (
        LTXVLoader,
        LowVRAMCheckpointLoader,
        LowVRAMAudioVAELoader,
        LowVRAMLatentUpscaleModelLoader,
        LTXVGemmaCLIPModelLoader,
        LTXVPromptEnhancerLoader,
        LTXVPromptEnhancer,
    )
}
