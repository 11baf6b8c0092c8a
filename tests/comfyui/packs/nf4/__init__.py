"""A stand-in for ComfyUI_bitsandbytes_NF4: the same node, with core's own loader and no quantisation.

bitsandbytes computes on CUDA devices alone, so that the real operations cannot run here.
"""

import comfy.sd
import folder_paths


class CheckpointLoaderNF4:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"ckpt_name": (folder_paths.get_filename_list("checkpoints"),)}}

    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    FUNCTION = "load_checkpoint"

    def load_checkpoint(self, ckpt_name):
        path = folder_paths.get_full_path("checkpoints", ckpt_name)
        return comfy.sd.load_checkpoint_guess_config(path, output_vae=True, output_clip=True)[:3]


NODE_CLASS_MAPPINGS = {"CheckpointLoaderNF4": CheckpointLoaderNF4}
