"""A custom node for a ComfyUI under test: a prompt with a pooled output, which no file has to be loaded for.

The demo's prompt comes from a core node that gives no pooled output, which ComfyUI 0.18 asks for.
"""

from __future__ import annotations

PROMPT_PACK = """
import torch

class MadeUpPrompt:
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "prompt"
    def prompt(self):
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randn(1, 8, 1024, generator=generator)
        return ([[tokens, {"pooled_output": torch.randn(1, 32, generator=generator)}]],)

NODE_CLASS_MAPPINGS = {"MadeUpPrompt": MadeUpPrompt}
"""
