"""A stand-in for PuLID_ComfyUI: the same names, inputs and results, with made-up modules."""

from .pulid import NODE_CLASS_MAPPINGS as NODE_CLASS_MAPPINGS
