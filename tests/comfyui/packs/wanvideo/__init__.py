"""A stand-in for ComfyUI-WanVideoWrapper of 2026, which no registry has: the same names, inputs, globals and results.

It captures its devices in globals when it is imported, in nearly every module; loads a model's weights when it samples;
and swaps blocks between devices that the transformer keeps. Its weights are made up: no files are read.
"""

from .nodes import NODE_CLASS_MAPPINGS as NODES
from .nodes_model_loading import NODE_CLASS_MAPPINGS as LOADERS
from .nodes_sampler import WanVideoSampler

NODE_CLASS_MAPPINGS = {**NODES, **LOADERS, "WanVideoSampler": WanVideoSampler}
