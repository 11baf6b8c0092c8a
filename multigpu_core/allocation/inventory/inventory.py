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
    """

    name: str
    kind: BlockKind
    dtype: str
    size_bytes: int
    parameters: tuple[str, ...]
    work: int = 0


@dataclass(frozen=True)
class Inventory:
    """All blocks of one model in execution order; every stored tensor is in exactly one block."""

    blocks: tuple[Block, ...]

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
