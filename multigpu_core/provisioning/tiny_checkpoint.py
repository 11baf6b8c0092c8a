"""A checkpoint with all three parts, diffusion model, text encoder and VAE, for the nodes that load them from one file.

The diffusion model is a Stable Diffusion 3, the one architecture whose text encoder may be CLIP-L alone. CLIP-L has its
real size, 123 million weights, because ComfyUI fixes it; all else is tiny.
"""

from __future__ import annotations

import torch

from .tiny_models import WeightMaker, Weights, vae_weights

CLIP_WIDTH = 768
CLIP_LAYERS = 12
CLIP_VOCABULARY = 49408
CLIP_MAX_TOKENS = 77
SD3_CONTEXT_DIM = 4096
SD3_POOLED_DIM = 2048
SD3_HIDDEN_PER_BLOCK = 64


def clip_weights(seed: int = 3) -> Weights:
    """The text encoder CLIP-L, as `CLIPLoader` reads it: write it as float8_e4m3fn for a file of 123 MB.

    For a Flux model to take its prompts, give `FluxShape` a `context_dim` and a `pooled_dim` of `CLIP_WIDTH`.
    """
    made = WeightMaker(seed)
    weights: Weights = {
        "text_model.embeddings.token_embedding.weight": made.bias(CLIP_VOCABULARY, CLIP_WIDTH),
        "text_model.embeddings.position_embedding.weight": made.bias(CLIP_MAX_TOKENS, CLIP_WIDTH),
        "text_model.final_layer_norm.weight": made.scale(CLIP_WIDTH),
        "text_model.final_layer_norm.bias": made.bias(CLIP_WIDTH),
        "text_projection.weight": torch.eye(CLIP_WIDTH),
    }
    for index in range(CLIP_LAYERS):
        layer = f"text_model.encoder.layers.{index}"
        projections = [(f"{layer}.self_attn.{name}_proj", CLIP_WIDTH, CLIP_WIDTH) for name in ("q", "k", "v", "out")]
        feed_forward = [
            (f"{layer}.mlp.fc1", CLIP_WIDTH, 4 * CLIP_WIDTH),
            (f"{layer}.mlp.fc2", 4 * CLIP_WIDTH, CLIP_WIDTH),
        ]
        weights |= made.linears(projections + feed_forward)
        for norm in (f"{layer}.layer_norm1", f"{layer}.layer_norm2"):
            weights |= {f"{norm}.weight": made.scale(CLIP_WIDTH), f"{norm}.bias": made.bias(CLIP_WIDTH)}
    return weights


def sd3_weights(blocks: int = 4, latent_channels: int = 16, seed: int = 4) -> Weights:
    """A Stable Diffusion 3 diffusion model; its hidden size follows from its number of blocks."""
    hidden, patches, made = SD3_HIDDEN_PER_BLOCK * blocks, 32, WeightMaker(seed)
    weights: Weights = {
        "x_embedder.proj.weight": made.normal(hidden, latent_channels, 2, 2),
        "x_embedder.proj.bias": made.bias(hidden),
        "pos_embed": made.bias(1, patches * patches, hidden),
    }
    layers = [
        ("t_embedder.mlp.0", 256, hidden),
        ("t_embedder.mlp.2", hidden, hidden),
        ("y_embedder.mlp.0", SD3_POOLED_DIM, hidden),
        ("y_embedder.mlp.2", hidden, hidden),
        ("context_embedder", SD3_CONTEXT_DIM, hidden),
        ("final_layer.linear", hidden, 4 * latent_channels),
        ("final_layer.adaLN_modulation.1", hidden, 2 * hidden),
    ]
    for index in range(blocks):
        for stream in ("context", "x"):
            block = f"joint_blocks.{index}.{stream}_block"
            layers.append((f"{block}.attn.qkv", hidden, 3 * hidden))
            # The last block has nothing to say about the prompt any more.
            if index == blocks - 1 and stream == "context":
                layers.append((f"{block}.adaLN_modulation.1", hidden, 2 * hidden))
                continue
            layers += [
                (f"{block}.adaLN_modulation.1", hidden, 6 * hidden),
                (f"{block}.attn.proj", hidden, hidden),
                (f"{block}.mlp.fc1", hidden, 4 * hidden),
                (f"{block}.mlp.fc2", 4 * hidden, hidden),
            ]
    return weights | made.linears(layers)


def checkpoint_weights(seed: int = 5) -> Weights:
    """Diffusion model, CLIP-L and VAE in one, as `CheckpointLoaderSimple` reads them."""
    parts = {
        "model.diffusion_model.": sd3_weights(seed=seed),
        "text_encoders.clip_l.transformer.": clip_weights(seed),
        "first_stage_model.": vae_weights(seed=seed),
    }
    return {prefix + name: value for prefix, part in parts.items() for name, value in part.items()}
