"""Tiny models with made-up weights in the file formats of real ones, for demos and tests.

Each `…_weights` function returns names and values as the published checkpoints have them, so that ComfyUI recognises
the architecture; `write` saves them. The same seed gives the same weights on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

Weights = dict[str, Tensor]

FLUX_HEAD_DIM = 128
"""Both Flux and Wan have attention heads of this width, so hidden sizes are multiples of it."""
LOTUS_CONTEXT_DIM = 1024
"""The width of what ComfyUI's LotusConditioning node gives: a prompt without a text encoder."""
TAESD_WIDTH = 64


@dataclass(frozen=True)
class FluxShape:
    """The sizes of a Flux transformer; `pooled_dim` is the width of the pooled prompt."""

    double_blocks: int = 4
    single_blocks: int = 8
    hidden_size: int = FLUX_HEAD_DIM
    context_dim: int = LOTUS_CONTEXT_DIM
    pooled_dim: int = 32
    latent_channels: int = 16


@dataclass(frozen=True)
class WanShape:
    """The sizes of a Wan 2.1 text-to-video transformer."""

    blocks: int = 6
    hidden_size: int = FLUX_HEAD_DIM
    feed_forward_size: int = 2 * FLUX_HEAD_DIM
    text_dim: int = 4096
    latent_channels: int = 16


def flux_weights(shape: FluxShape = FluxShape(), seed: int = 0) -> Weights:
    """A Flux diffusion model, as `UNETLoader` reads it: about 5 million weights in the default shape."""
    hidden, patch = shape.hidden_size, 4 * shape.latent_channels
    layers: list[tuple[str, int, int]] = [
        ("img_in", patch, hidden),
        ("txt_in", shape.context_dim, hidden),
        *_mlp_embedder("time_in", 256, hidden),
        *_mlp_embedder("vector_in", shape.pooled_dim, hidden),
        *_mlp_embedder("guidance_in", 256, hidden),
        ("final_layer.linear", hidden, patch),
        ("final_layer.adaLN_modulation.1", hidden, 2 * hidden),
    ]
    norms: list[str] = []
    for index in range(shape.double_blocks):
        for stream in ("img", "txt"):
            block = f"double_blocks.{index}.{stream}"
            layers += [
                (f"{block}_mod.lin", hidden, 6 * hidden),
                (f"{block}_attn.qkv", hidden, 3 * hidden),
                (f"{block}_attn.proj", hidden, hidden),
                (f"{block}_mlp.0", hidden, 4 * hidden),
                (f"{block}_mlp.2", 4 * hidden, hidden),
            ]
            norms.append(f"{block}_attn.norm")
    for index in range(shape.single_blocks):
        block = f"single_blocks.{index}"
        layers += [
            (f"{block}.modulation.lin", hidden, 3 * hidden),
            (f"{block}.linear1", hidden, 7 * hidden),
            (f"{block}.linear2", 5 * hidden, hidden),
        ]
        norms.append(f"{block}.norm")
    made = WeightMaker(seed)
    weights = made.linears(layers)
    for norm in norms:
        weights |= {f"{norm}.{kind}_norm.scale": made.scale(FLUX_HEAD_DIM) for kind in ("query", "key")}
    return weights


def wan_weights(shape: WanShape = WanShape(), seed: int = 0) -> Weights:
    """A Wan 2.1 text-to-video diffusion model, as `UNETLoader` reads it."""
    hidden, made = shape.hidden_size, WeightMaker(seed)
    layers: list[tuple[str, int, int]] = [
        ("text_embedding.0", shape.text_dim, hidden),
        ("text_embedding.2", hidden, hidden),
        ("time_embedding.0", 256, hidden),
        ("time_embedding.2", hidden, hidden),
        ("time_projection.1", hidden, 6 * hidden),
        ("head.head", hidden, 4 * shape.latent_channels),
    ]
    weights: Weights = {
        "patch_embedding.weight": made.normal(hidden, shape.latent_channels, 1, 2, 2),
        "patch_embedding.bias": made.bias(hidden),
        "head.modulation": made.bias(1, 2, hidden),
    }
    for index in range(shape.blocks):
        block = f"blocks.{index}"
        for attention in (f"{block}.self_attn", f"{block}.cross_attn"):
            layers += [(f"{attention}.{name}", hidden, hidden) for name in "qkvo"]
            weights |= {f"{attention}.norm_{name}.weight": made.scale(hidden) for name in "qk"}
        layers += [
            (f"{block}.ffn.0", hidden, shape.feed_forward_size),
            (f"{block}.ffn.2", shape.feed_forward_size, hidden),
        ]
        weights |= {f"{block}.norm3.weight": made.scale(hidden), f"{block}.norm3.bias": made.bias(hidden)}
        weights[f"{block}.modulation"] = made.bias(1, 6, hidden)
    return weights | made.linears(layers)


def lora_weights(base: Mapping[str, Tensor], targets: Iterable[str] = ("",), rank: int = 4, seed: int = 1) -> Weights:
    """A LoRA for the diffusion model `base`: every matrix whose name has one of `targets` in it is patched."""
    wanted, made = tuple(targets), WeightMaker(seed)
    weights: Weights = {}
    for name, value in base.items():
        if value.dim() == 2 and name.endswith(".weight") and any(target in name for target in wanted):
            layer = f"diffusion_model.{name.removesuffix('.weight')}"
            weights[f"{layer}.lora_down.weight"] = made.normal(rank, value.shape[1])
            weights[f"{layer}.lora_up.weight"] = made.normal(value.shape[0], rank)
            weights[f"{layer}.alpha"] = torch.tensor(float(rank))
    return weights


def vae_weights(latent_channels: int = 16, seed: int = 2) -> Weights:
    """A TAESD autoencoder for images, as `VAELoader` reads it: 2.4 million weights, 8 times down and up."""
    made = WeightMaker(seed)
    width = TAESD_WIDTH
    weights: Weights = {"vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0)}
    encoder = [("conv", 3), ("block", width)] + [("conv", width), *[("block", width)] * 3] * 3 + [("last", width)]
    decoder = [("skip", 0), ("conv", latent_channels), ("skip", 0)]
    decoder += [*[("block", width)] * 3, ("skip", 0), ("conv", width)] * 3 + [("block", width), ("last", width)]
    for half, stages, outputs in (("taesd_encoder", encoder, latent_channels), ("taesd_decoder", decoder, 3)):
        for index, (kind, inputs) in enumerate(stages):
            name = f"{half}.{index}"
            if kind == "block":
                for layer in (0, 2, 4):
                    weights |= made.convolution(f"{name}.conv.{layer}", width, width)
            elif kind != "skip":
                # Only the first and the last convolution of a half have a bias, and the decoder's on the latent.
                has_bias = inputs != width or kind == "last"
                weights |= made.convolution(name, inputs, outputs if kind == "last" else width, has_bias)
    return weights


def write(path: Path, weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> Path:
    """Save `weights` at `path` as safetensors with every floating-point value in `dtype`; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}
    save_file({name: value.contiguous() for name, value in cast.items()}, path)
    return path


class WeightMaker:
    """Draws weights of a size that keeps activations near one."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *size: int) -> Tensor:
        fan_in = max(1, math.prod(size[1:]))
        return torch.randn(size, generator=self._generator) / math.sqrt(fan_in)

    def bias(self, *size: int) -> Tensor:
        return torch.randn(size, generator=self._generator) * 0.02

    def scale(self, size: int) -> Tensor:
        return 1 + self.bias(size)

    def linears(self, layers: Iterable[tuple[str, int, int]]) -> Weights:
        """Weight and bias of each `(name, inputs, outputs)`."""
        weights: Weights = {}
        for name, inputs, outputs in layers:
            weights |= {f"{name}.weight": self.normal(outputs, inputs), f"{name}.bias": self.bias(outputs)}
        return weights

    def convolution(self, name: str, inputs: int, outputs: int, has_bias: bool = True) -> Weights:
        weights = {f"{name}.weight": self.normal(outputs, inputs, 3, 3)}
        return weights | ({f"{name}.bias": self.bias(outputs)} if has_bias else {})


def _mlp_embedder(name: str, inputs: int, hidden: int) -> Iterator[tuple[str, int, int]]:
    yield f"{name}.in_layer", inputs, hidden
    yield f"{name}.out_layer", hidden, hidden
