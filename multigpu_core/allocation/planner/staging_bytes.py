"""Bytes of the compute device reserved for streaming: the size of the staging buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from multigpu.multigpu_core.allocation.inventory.inventory import Block
from multigpu.multigpu_core.allocation.language.amounts import readable_bytes
from multigpu.multigpu_core.allocation.language.errors import PlanError

from .capacity import Capacity
from .staging_ring import ALIGNMENT, aligned

MOST_BLOCKS = 3
"""A block that computes, one that is there, and one on its way: more hide no more."""


_ONE_PART = frozenset({"float32", "float16", "bfloat16"})
_PARTS_OF_QUANTISED = 3
"""Codes, and up to two tensors of scales."""


def staged_bytes(block: Block) -> int:
    """What a block takes in the staging buffer: each of its tensors begins at a multiple of the alignment."""
    parts = len(block.parameters) * (1 if block.dtype in _ONE_PART else _PARTS_OF_QUANTISED)
    return aligned(block.size_bytes + (ALIGNMENT - 1) * max(0, parts - 1))


def capacity_beside_staging(capacity: Capacity, movable: Sequence[Block]) -> Capacity:
    """The room for these blocks, of which some will have to be streamed because not all fit.

    As many places as fit into half of what is free are kept, one at least if there is room for one.
    """
    free = capacity.free_bytes[capacity.compute_device]
    largest = max(map(staged_bytes, movable), default=0)
    places = max(1, min(MOST_BLOCKS, free // (2 * largest))) if largest else 0
    kept = free - places * largest
    return replace(capacity, free_bytes={**capacity.free_bytes, capacity.compute_device: max(0, kept)})


def staging_bytes(streamed: Sequence[Block], stored_bytes: int, capacity: Capacity, way_out: str) -> int:
    """Places for up to three of the largest streamed blocks, beside the bytes that the compute device stores.

    One place is taken even of the memory that inference should have: without it there is no inference.

    Raises:
        PlanError: there is no room for even one.
    """
    if not streamed:
        return 0
    largest = max(map(staged_bytes, streamed))
    spare = capacity.free_bytes[capacity.compute_device] - stored_bytes
    if largest > spare + capacity.reserve_bytes:
        needed = stored_bytes + capacity.head_bytes + largest
        free = spare + stored_bytes + capacity.head_bytes + capacity.reserve_bytes
        way_out = f"{readable_bytes(largest)} of that are reserved for streaming. {way_out}"
        raise PlanError(capacity.compute_device, needed, free, way_out)
    return best_staging_bytes(streamed, spare)


def best_staging_bytes(streamed: Sequence[Block], spare_bytes: int) -> int:
    """Up to three places for the largest of these blocks, as far as the spare bytes go; one in any case."""
    largest = max(map(staged_bytes, streamed))
    places = max(1, min(MOST_BLOCKS, spare_bytes // largest))
    return min(places * largest, sum(map(staged_bytes, streamed)))
