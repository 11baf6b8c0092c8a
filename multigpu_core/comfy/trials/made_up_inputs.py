"""Made-up inputs of the shapes that a model takes: noise of its own latent format, and a prompt of its own width.

ComfyUI knows the width of a prompt where it builds the model: in the model's detected configuration, or else in the
defaults of the model's class. The names differ from one architecture to the next.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

PROMPT_TOKENS = 77
LATENT_FRAMES = 2
AUDIO_LATENTS = 256

PROMPT_WIDTHS = (
    "context_in_dim", "context_dim", "text_dim", "in_text_dim", "caption_channels", "cap_feat_dim", "text_feat_dim",
    "joint_attention_dim", "crossattn_emb_channels", "t5_feat_dim", "text_embed_dim", "text_in_dim", "txtdim",
    "text_states_dim", "text_embedding_dim", "llm_features_dim", "cond_token_dim", "cond_seq_dim",
)  # fmt: skip
POOLED_WIDTHS = ("vec_in_dim", "in_text_dim2", "text_emb_dim", "clip_text_dim", "adm_in_channels")
SIZE_EMBEDDINGS = {"SDXL": 6 * 256, "SDXLRefiner": 5 * 256}
"""How much of `adm_in_channels` ComfyUI fills with sizes; the rest is the pooled prompt."""


class UnknownInputsError(RuntimeError):
    """A model whose inputs cannot be made up; `architecture` is ComfyUI's name of its class, `reason` what happened."""

    def __init__(self, architecture: str, reason: str) -> None:
        super().__init__(f"No inputs can be made up for a {architecture}: {reason}")
        self.architecture = architecture
        self.reason = reason


def made_up_latent(model: Any, size_pixels: int) -> Tensor:
    """An empty latent of a square picture or a short video, for a `BaseModel`."""
    form = model.latent_format
    side = max(1, size_pixels // int(getattr(form, "spacial_downscale_ratio", 8)))
    dimensions = {1: (AUDIO_LATENTS,), 2: (side, side), 3: (LATENT_FRAMES, side, side)}
    if form.latent_dimensions not in dimensions:
        raise UnknownInputsError(type(model).__name__, f"its latents have {form.latent_dimensions} dimensions.")
    return torch.zeros(1, form.latent_channels, *dimensions[form.latent_dimensions])


def made_up_prompt(model: Any, seed: int) -> list[list[Any]]:
    """A conditioning of random numbers, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    width = prompt_width(model)
    extras = {}
    if pooled := pooled_width(model):
        extras["pooled_output"] = torch.randn(1, pooled, generator=generator)
    return [[torch.randn(1, PROMPT_TOKENS, width, generator=generator), extras]]


def prompt_width(model: Any) -> int:
    """How many numbers a token has.

    Raises:
        UnknownInputsError: none of the names that are known is in the model's configuration.
    """
    for settings in _settings(model):
        for name in PROMPT_WIDTHS:
            if (width := _width(settings.get(name))) is not None:
                return width
        embedder = settings.get("context_embedder_config")  # Stable Diffusion 3
        if isinstance(embedder, Mapping):
            return int(embedder["params"]["in_features"])
    raise UnknownInputsError(type(model).__name__, "its configuration does not tell how wide a prompt is.")


def pooled_width(model: Any) -> int:
    """How many numbers the pooled prompt has; 0 for a model that takes none."""
    for settings in _settings(model):
        for name in POOLED_WIDTHS:
            if (width := _width(settings.get(name))) is not None:
                sizes = (SIZE_EMBEDDINGS.get(cls.__name__, 0) for cls in type(model).__mro__)
                return width - max(sizes) if name == "adm_in_channels" else width
    return 0


def _settings(model: Any) -> Iterator[Mapping[str, Any]]:
    """What was detected from the file, and then what the model's class takes without being told."""
    yield model.model_config.unet_config
    parameters = inspect.signature(type(model.diffusion_model).__init__).parameters.values()
    yield {parameter.name: parameter.default for parameter in parameters}


def _width(value: object) -> int | None:
    """A width, or the first of several; 0 and None mean that there is none."""
    if isinstance(value, Sequence) and value and not isinstance(value, str):
        value = value[0]
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
