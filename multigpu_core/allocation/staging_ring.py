"""Where streamed blocks are staged: fixed places in one buffer, taken in turn, and who has to be done before.

A step computes the streamed blocks in order, and the next step begins anew:

    buffer  |--- 0 ---|-- 1 --|- 2 -|      the places are taken one behind the other ...
            |-- 3 --|---- 4 ----|          ... and from the beginning again where the next block does not fit

Block 3 overwrites 0 and a part of 1, so its copy waits for 1, the later of the two, and can run while 2 computes.
Because a block's place is the same in each step, what points to it (parameters, compiled code) can be kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

ALIGNMENT = 256
"""Bytes. Kernels may read weights in vectors; CUDA's own allocator promises as much."""


@dataclass(frozen=True)
class StagingRing:
    """One buffer of `size_bytes` and, for each streamed block in execution order, its `offsets` there.

    `waits_for[i]` is the block that has to be computed before block `i` may be copied: of this step if it is smaller
    than `i`, of the step before if not.
    """

    size_bytes: int
    offsets: tuple[int, ...]
    waits_for: tuple[int, ...]


def staging_ring(sizes: Sequence[int], size_bytes: int) -> StagingRing:
    """The ring for streamed blocks of these sizes in bytes.

    It is as large as the largest of them at least, and no larger than `size_bytes` or all of them together.
    """
    aligned_sizes = [aligned(size) for size in sizes]
    capacity = max([min(size_bytes, sum(aligned_sizes)), *aligned_sizes], default=0)
    offsets = []
    position = 0
    for size in aligned_sizes:
        if position + size > capacity:
            position = 0
        offsets.append(position)
        position += size
    ends = [offset + size for offset, size in zip(offsets, aligned_sizes, strict=True)]
    waits_for = tuple(
        next(j for j in _before(i, len(sizes)) if (offsets[j] < ends[i] and offsets[i] < ends[j]) or j == i)
        for i in range(len(sizes))
    )
    return StagingRing(capacity, tuple(offsets), waits_for)


def aligned(size_bytes: int) -> int:
    """The next multiple of the alignment."""
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT


def _before(index: int, count: int) -> Iterator[int]:
    """The blocks computed before one, latest first, back to that one in the step before."""
    yield from reversed(range(index))
    yield from reversed(range(index, count))
