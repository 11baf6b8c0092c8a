"""A stand-in for ComfyUI-LTXVideo: the loader of its older versions, and one of today's, which inherits from core's."""

from __future__ import annotations

import comfy.sd
import folder_paths
import nodes


class LTXVLoader:
    @classmethod
    def INPUT_TYPES(cls):
        files = (folder_paths.get_filename_list("checkpoints"),)
        return {"required": {"ckpt_name": files, "dtype": (["bfloat16", "float32"], {"default": "bfloat16"})}}

    RETURN_TYPES = ("MODEL", "VAE")
    RETURN_NAMES = ("model", "vae")
    FUNCTION = "load"
    CATEGORY = "lightricks/LTXV"

    def load(self, ckpt_name, dtype):
        path = folder_paths.get_full_path("checkpoints", ckpt_name)
        model, _, vae, _ = comfy.sd.load_checkpoint_guess_config(path, output_vae=True, output_clip=False)
        return (model, vae)


class LowVRAMCheckpointLoader(nodes.CheckpointLoaderSimple):
    @classmethod
    def INPUT_TYPES(cls):
        return {**super().INPUT_TYPES(), "optional": {"dependencies": ("*",)}}

    FUNCTION = "load_checkpoint_sequentially"

    def load_checkpoint_sequentially(self, ckpt_name, dependencies=None):
        return super().load_checkpoint(ckpt_name)


NODE_CLASS_MAPPINGS = {"LTXVLoader": LTXVLoader, "LowVRAMCheckpointLoader": LowVRAMCheckpointLoader}
