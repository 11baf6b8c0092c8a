"""Models with random weights and the proportions of real ones: what counts here is bytes and operations, not pictures.

Flux: 19 double blocks, whose image and text halves have weights of their own, and 38 single ones: a double block has
more than twice a single one's bytes and about as much compute. Wan: 40 equal blocks with cross attention. Uniform: 40
blocks of linear layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

HEAD_WIDTH = 64


@dataclass(frozen=True)
class Sizes:
    """How large a model is and how much it is given. `text_tokens` are a part of `tokens` for Flux."""

    width: int
    tokens: int
    text_tokens: int
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    """Where the weights are made."""


class _Half(nn.Module):
    """The image's or the text's half of a double block."""

    def __init__(self, make: Callable[[int, int], nn.Module], width: int) -> None:
        super().__init__()
        self.modulation = make(width, 6 * width)
        self.qkv = make(width, 3 * width)
        self.proj = make(width, width)
        self.up = make(width, 4 * width)
        self.down = make(4 * width, width)


class DoubleBlock(nn.Module):
    def __init__(self, make: Callable[[int, int], nn.Module], width: int) -> None:
        super().__init__()
        self.image, self.text = _Half(make, width), _Half(make, width)

    def forward(self, image: Tensor, text: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        halves = ((self.text, text), (self.image, image))
        gates = [half.modulation(vector).chunk(6, -1) for half, _ in halves]
        qkv = torch.cat([half.qkv(x * gate[0]) for (half, x), gate in zip(halves, gates, strict=True)], 1)
        mixed = _attend(*qkv.chunk(3, -1))
        parts = mixed.split([text.shape[1], image.shape[1]], 1)
        out = []
        for (half, x), gate, part in zip(halves, gates, parts, strict=True):
            x = x + half.proj(part) * gate[1]
            out.append(x + half.down(functional.gelu(half.up(x * gate[2]))) * gate[3])
        return out[1], out[0]


class SingleBlock(nn.Module):
    def __init__(self, make: Callable[[int, int], nn.Module], width: int) -> None:
        super().__init__()
        self.modulation = make(width, 3 * width)
        self.linear1 = make(width, 7 * width)
        self.linear2 = make(5 * width, width)
        self.width = width

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(vector).chunk(3, -1)
        qkv, up = self.linear1(x * scale + shift).split([3 * self.width, 4 * self.width], -1)
        mixed = _attend(*qkv.chunk(3, -1))
        return x + self.linear2(torch.cat([mixed, functional.gelu(up)], -1)) * gate


class WanBlock(nn.Module):
    def __init__(self, make: Callable[[int, int], nn.Module], width: int) -> None:
        super().__init__()
        self.qkv, self.proj = make(width, 3 * width), make(width, width)
        self.cross_q, self.cross_kv, self.cross_proj = make(width, width), make(width, 2 * width), make(width, width)
        self.up, self.down = make(width, 27 * width // 10), make(27 * width // 10, width)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        x = x + self.proj(_attend(*self.qkv(x).chunk(3, -1)))
        x = x + self.cross_proj(_attend(self.cross_q(x), *self.cross_kv(text).chunk(2, -1)))
        return x + self.down(functional.gelu(self.up(x)))


class UniformBlock(nn.Module):
    def __init__(self, make: Callable[[int, int], nn.Module], width: int) -> None:
        super().__init__()
        self.up, self.down = make(width, 4 * width), make(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(functional.gelu(self.up(x)))


class Flux(nn.Module):
    def __init__(self, sizes: Sizes, doubles: int = 19, singles: int = 38) -> None:
        super().__init__()
        make = _linear(sizes)
        self.embed = make(sizes.width, sizes.width)
        self.double_blocks = nn.ModuleList(DoubleBlock(make, sizes.width) for _ in range(doubles))
        self.single_blocks = nn.ModuleList(SingleBlock(make, sizes.width) for _ in range(singles))
        self.text_tokens = sizes.text_tokens

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        vector = x[:, :1]
        text, image = x[:, : self.text_tokens], x[:, self.text_tokens :]
        for block in self.double_blocks:
            image, text = block(image, text, vector)
        x = torch.cat([text, image], 1)
        for block in self.single_blocks:
            x = block(x, vector)
        return x


class Wan(nn.Module):
    def __init__(self, sizes: Sizes, blocks: int = 40) -> None:
        super().__init__()
        make = _linear(sizes)
        self.embed = make(sizes.width, sizes.width)
        self.blocks = nn.ModuleList(WanBlock(make, sizes.width) for _ in range(blocks))
        self.text_tokens = sizes.text_tokens

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        text = x[:, : self.text_tokens]
        for block in self.blocks:
            x = block(x, text)
        return x


class Uniform(nn.Module):
    def __init__(self, sizes: Sizes, blocks: int = 40) -> None:
        super().__init__()
        make = _linear(sizes)
        self.embed = make(sizes.width, sizes.width)
        self.blocks = nn.ModuleList(UniformBlock(make, sizes.width) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return x


SHAPES: dict[str, type[Flux | Wan | Uniform]] = {"uniform": Uniform, "flux": Flux, "wan": Wan}


def shaped_model(shape: str, sizes: Sizes) -> nn.Module:
    """A model of that shape; the same weights for the same sizes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SHAPES[shape](sizes).eval().requires_grad_(False)


def shaped_input(sizes: Sizes, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    dtype = torch.bfloat16 if sizes.dtype.itemsize == 1 else sizes.dtype  # eight bits are for weights
    return torch.randn(batch, sizes.tokens, sizes.width, generator=generator).to(dtype)


class ScaledLinear(nn.Module):
    """A linear layer with weights of eight bits, which are cast when it computes."""

    def __init__(self, inputs: int, outputs: int, dtype: torch.dtype, device: str) -> None:
        super().__init__()
        weight = (torch.randn(outputs, inputs, device=device) / inputs**0.5).to(dtype)
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.to(x.dtype))


def _linear(sizes: Sizes) -> Callable[[int, int], nn.Module]:
    if sizes.dtype.itemsize == 1:
        return lambda inputs, outputs: ScaledLinear(inputs, outputs, sizes.dtype, sizes.device)
    return lambda inputs, outputs: nn.Linear(inputs, outputs, dtype=sizes.dtype, device=sizes.device)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    heads = [part.unflatten(-1, (-1, min(HEAD_WIDTH, part.shape[-1]))).transpose(1, 2) for part in (query, key, value)]
    return functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
