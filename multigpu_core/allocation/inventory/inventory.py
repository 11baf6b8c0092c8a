"""The blocks of a model in execution order: the unit in which weights are placed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property


class BlockKind(str, Enum):
    HEAD = "head"
    """Needed outside any block (embeddings, input and output layers): stays on the compute device."""
    TRANSFORMER = "transformer"
    NORM = "norm"
    OTHER = "other"


@dataclass(frozen=True)
class Block:
    """One placeable part of a model.

    `name` is the module path the parameters share (``diffusion_model.double_blocks.0``). `size_bytes` counts what is
    stored, so a quantised block counts its quantised bytes. `dtype` is the storage type of most of its bytes
    (``bfloat16``, ``float8_e4m3fn``, ``Q4_K``). `parameters` are full state-dict names, buffers included. `work` is
    about the number of multiplications for one token of the picture; 0 where nobody has estimated it.

    `layers` are its parts where these may be placed one by one. Each is a block itself, with the name of this one as
    its `part_of`. What is too small to be streamed is a head among them, under this block's own name.
    """

    name: str
    kind: BlockKind
    dtype: str
    size_bytes: int
    parameters: tuple[str, ...]
    work: int = 0
    layers: tuple[Block, ...] = ()
    part_of: str = ""

    @property
    def parts(self) -> tuple[Block, ...]:
        """Its layers; itself where it stays whole."""
        return self.layers or (self,)

    @property
    def whole_name(self) -> str:
        """The name of the whole block that it is or is a part of."""
        return self.part_of or self.name


@dataclass(frozen=True)
class Inventory:
    """All blocks of one model in execution order; every stored tensor is in exactly one block."""

    blocks: tuple[Block, ...]

    @cached_property
    def by_layers(self) -> Inventory:
        """The same tensors with every block divided into its layers."""
        return Inventory(tuple(part for block in self.blocks for part in block.parts))

    @cached_property
    def total_bytes(self) -> int:
        return sum(block.size_bytes for block in self.blocks)

    @cached_property
    def head_bytes(self) -> int:
        """Bytes that must stay on the compute device."""
        return sum(block.size_bytes for block in self.blocks if block.kind is BlockKind.HEAD)

    @cached_property
    def largest_block_bytes(self) -> int:
        return max((block.size_bytes for block in self.blocks), default=0)
