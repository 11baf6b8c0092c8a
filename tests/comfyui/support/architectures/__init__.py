"""The architectures of ComfyUI: what the inventory, splits and relays are tested on."""

from __future__ import annotations

from . import images, text_encoders, unets, videos
from .architecture import Architecture, Draw
from .not_built import NOT_BUILT

DIFFUSION: dict[str, Architecture] = {**images.ARCHITECTURES, **videos.ARCHITECTURES, **unets.ARCHITECTURES}
TEXT_ENCODERS: dict[str, Architecture] = text_encoders.ARCHITECTURES
ARCHITECTURES: dict[str, Architecture] = {**DIFFUSION, **TEXT_ENCODERS}

__all__ = ["ARCHITECTURES", "DIFFUSION", "NOT_BUILT", "TEXT_ENCODERS", "Architecture", "Draw"]
