"""The staging buffer: fixed places taken in turn, and which reader must finish before each is reused.

    buffer  |--- 0 ---|-- 1 --|- 2 -|      the places are taken one behind the other ...
            |-- 3 --|---- 4 ----|          ... and from the beginning again where the next block does not fit

Block 3 overwrites 0 and a part of 1. It comes in two pieces: the first may be copied when 0 has computed, and the
second, what lies over 1, when 1 has, while 2 computes.

After the last block comes the first again, of the next step. Were it always at the beginning of the buffer, it would
often have to wait for one of the last; so the places are laid out for a few steps, a *lap* each, and only then again.
Because they are fixed, what points to them (parameters, compiled code) can be kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 256
"""Bytes. Kernels may read weights in vectors; CUDA's own allocator promises as much."""

MOST_LAPS = 3

_LEAST_PART = 8
"""A piece is an eighth of its block at least: each costs the host a few microseconds."""


@dataclass(frozen=True)
class Segment:
    """The bytes `begin` to `end` of a block.

    They may be copied when the block of `distance` turns before has computed, the last to use any byte of their place.
    """

    begin: int
    end: int
    distance: int


@dataclass(frozen=True)
class StagingRing:
    """One buffer of `size_bytes`, and a turn for each streamed block in execution order, `laps` times over.

    `offsets` are the places in the buffer, and `segments[i]` what turn `i` is copied in, in this order.
    """

    size_bytes: int
    laps: int
    offsets: tuple[int, ...]
    segments: tuple[tuple[Segment, ...], ...]


def staging_ring(sizes: Sequence[int], size_bytes: int) -> StagingRing:
    """The ring for streamed blocks of these sizes in bytes, in execution order.

    It is as large as the largest of them at least, and no larger than `size_bytes` or all of them together. Of several
    sizes and numbers of laps it has those that let every copy run ahead farthest.
    """
    aligned_sizes = [aligned(size) for size in sizes]
    most = max([min(size_bytes, sum(aligned_sizes)), *aligned_sizes], default=0)
    best: tuple[int, int, list[int], list[int]] = (most, 1, [], [])
    best_lead = -1
    for capacity in _capacities(aligned_sizes, most):
        for laps in range(1, MOST_LAPS + 1):
            turns = aligned_sizes * laps
            offsets = _offsets(turns, capacity)
            found = _distances(turns, offsets, best_lead)
            if found is not None:
                distances, best_lead = found
                best = (capacity, laps, offsets, distances)
    size, laps, offsets, distances = best
    segments = (_segments(aligned_sizes * laps, offsets, turn, distance) for turn, distance in enumerate(distances))
    return StagingRing(size, laps, tuple(offsets), tuple(segments))


def _capacities(sizes: Sequence[int], most: int) -> list[int]:
    """The most, and what the blocks fill of it from wherever a round of the buffer begins: less can fit better."""
    filled = {most}
    for begin in range(min(len(sizes), 8)):
        size = 0
        for each in itertools.islice(itertools.cycle(sizes), begin, begin + len(sizes)):
            if size + each > most:
                break
            size += each
        if size >= max(sizes):
            filled.add(size)
    return sorted(filled, reverse=True)


def aligned(size_bytes: int) -> int:
    """The next multiple of the alignment."""
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT


def _offsets(turns: Sequence[int], capacity: int) -> list[int]:
    offsets = []
    position = 0
    for size in turns:
        if position + size > capacity:
            position = 0
        offsets.append(position)
        position += size
    return offsets


def _distances(turns: Sequence[int], offsets: Sequence[int], least_lead: int) -> tuple[list[int], int] | None:
    """The distance of every turn, and the fewest bytes of blocks still to compute that a copy can be ahead of.

    None, as soon as it is known, where these are not more than `least_lead`.
    """
    count = len(turns)
    ends = [offset + size for offset, size in zip(offsets, turns, strict=True)]
    borders = [0, *itertools.accumulate(itertools.chain(turns, turns))]
    shortest = borders[-1]
    distances = []
    for turn in range(count):
        begin, end = offsets[turn], ends[turn]
        before = turn - 1  # below zero it is a turn of the time before, and at last this turn itself
        while offsets[before] >= end or begin >= ends[before]:
            before -= 1
        shortest = min(shortest, borders[turn + count] - borders[before + 1 + count])
        if shortest <= least_lead:
            return None
        distances.append(turn - before)
    return (distances, shortest) if shortest > least_lead else None


def _segments(turns: Sequence[int], offsets: Sequence[int], turn: int, distance: int) -> tuple[Segment, ...]:
    """A turn's place divided where earlier turns that used parts of it begin or end; first what is free first."""
    count = len(turns)
    least = turns[turn] // _LEAST_PART
    begin, end = offsets[turn], offsets[turn] + turns[turn]
    segments: list[Segment] = []
    while begin < end:
        reader = (turn - distance) % count
        low, high = max(begin, offsets[reader]), min(end, offsets[reader] + turns[reader])
        if low < high or distance == count:
            is_at_end = high == end and low - begin >= least
            is_at_begin = low == begin and end - high >= least
            if high - low < least or not (is_at_begin or is_at_end):
                low, high = begin, end
            segments.append(Segment(low - offsets[turn], high - offsets[turn], distance))
            begin, end = (begin, low) if high == end else (high, end)
        distance += 1
    return tuple(reversed(segments))
