"""Bytes of the compute device reserved for streaming: the size of the staging buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Literal

from multigpu.multigpu_core.allocation.inventory.inventory import Block
from multigpu.multigpu_core.allocation.language.amounts import readable_bytes
from multigpu.multigpu_core.allocation.language.errors import PlanError

from .capacity import Capacity
from .staging_ring import ALIGNMENT, aligned

Staging = Literal["auto", "small", "large"] | int
"""How much to reserve: the least that costs nothing, the least, the most that hides anything, or so many bytes."""

_SMALL_LAYERS = 2
"""One that computes and one on its way."""

_AUTO_LAYERS = 4
"""Where nothing is known of the machine."""

_LARGE_BLOCKS = 3
"""A block that computes, one that is there, and one on its way: more hide no more."""

_ONE_PART = frozenset({"float32", "float16", "bfloat16"})
_PARTS_OF_QUANTISED = 3
"""Codes, and up to two tensors of scales."""


def staged_bytes(block: Block) -> int:
    """What a block takes in the staging buffer: each of its tensors begins at a multiple of the alignment."""
    parts = len(block.parameters) * (1 if block.dtype in _ONE_PART else _PARTS_OF_QUANTISED)
    return aligned(block.size_bytes + (ALIGNMENT - 1) * max(0, parts - 1))


def wanted_bytes(parts: Sequence[Block], staging: Staging) -> int:
    """What the streaming of these layers and blocks is given where there is room: a place for the largest at least."""
    sizes = [staged_bytes(part) for part in parts]
    largest = max(sizes, default=0)
    if staging == "large":
        wanted = _LARGE_BLOCKS * largest_block_bytes(parts)
    elif staging == "small":
        wanted = _SMALL_LAYERS * largest
    else:
        wanted = _AUTO_LAYERS * largest if staging == "auto" else aligned(staging)
    return max(largest, min(wanted, sum(sizes)))


def largest_block_bytes(parts: Sequence[Block]) -> int:
    """What the most of these parts that belong to one block take in the staging buffer."""
    blocks = groupby(parts, key=lambda part: part.whole_name)
    return max((sum(map(staged_bytes, of_block)) for _, of_block in blocks), default=0)


def capacity_beside_staging(capacity: Capacity, movable: Sequence[Block], staging: Staging) -> Capacity:
    """The room for these blocks, of which some will have to be streamed because not all fit.

    What is wanted is kept for that, but no more than half of what is free, or one place.
    """
    free = capacity.free_bytes[capacity.compute_device]
    kept = free - staging_bytes(movable, free // 2, staging)
    return replace(capacity, free_bytes={**capacity.free_bytes, capacity.compute_device: max(0, kept)})


def staging_bytes(streamed: Sequence[Block], spare_bytes: int, staging: Staging) -> int:
    """What is wanted for these, as far as the spare bytes go: whole places for the largest, one in any case."""
    largest = max(map(staged_bytes, streamed), default=0)
    wanted = wanted_bytes(streamed, staging)
    return wanted if wanted <= spare_bytes else max(largest, spare_bytes // largest * largest)


def refuse_without_staging(streamed: Sequence[Block], stored_bytes: int, capacity: Capacity, way_out: str) -> None:
    """Check that there is room for one of these at least, beside the bytes that the compute device stores.

    That place is taken even of the memory that inference should have: without it there is no inference.

    Raises:
        PlanError: there is no room for even one.
    """
    largest = max(map(staged_bytes, streamed), default=0)
    spare = capacity.free_bytes[capacity.compute_device] - stored_bytes
    if largest > spare + capacity.reserve_bytes:
        needed = stored_bytes + capacity.head_bytes + largest
        free = spare + stored_bytes + capacity.head_bytes + capacity.reserve_bytes
        way_out = f"{readable_bytes(largest)} of that are reserved for streaming. {way_out}"
        raise PlanError(capacity.compute_device, needed, free, way_out)
