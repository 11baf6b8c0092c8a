"""Loads a model as if ComfyUI ran without DynamicVRAM, which decides by itself where weights lie.

It takes more than another patcher class: under DynamicVRAM weights keep the dtype of their file until an operator casts
them, which only its own patchers let operators do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import comfy.memory_management
import comfy.model_patcher


@contextmanager
def without_dynamic_vram() -> Iterator[None]:
    """Let core's loaders do what they do with --disable-dynamic-vram, until the block is left."""
    chosen, is_enabled = comfy.model_patcher.CoreModelPatcher, getattr(comfy.memory_management, "aimdo_enabled", False)
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcher
    comfy.memory_management.aimdo_enabled = False
    try:
        yield
    finally:
        comfy.model_patcher.CoreModelPatcher = chosen
        comfy.memory_management.aimdo_enabled = is_enabled
