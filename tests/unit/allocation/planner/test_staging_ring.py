"""Streamed blocks share one buffer, and none is overwritten before it was computed."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from multigpu.multigpu_core.allocation.planner.staging_ring import ALIGNMENT, StagingRing, aligned, staging_ring

SIZES = st.lists(st.integers(1, 5000), min_size=1, max_size=30)


@given(sizes=SIZES, size_bytes=st.integers(0, 40_000))
def test_the_buffer_is_no_larger_than_allowed_unless_one_block_is(sizes: list[int], size_bytes: int) -> None:
    ring = staging_ring(sizes, size_bytes)
    largest = max(map(aligned, sizes))
    assert largest <= ring.size_bytes <= max(largest, size_bytes)
    assert ring.size_bytes <= sum(map(aligned, sizes))
    assert len(ring.offsets) == len(ring.segments) == ring.laps * len(sizes)
    for offset, size in zip(ring.offsets, sizes * ring.laps, strict=True):
        assert offset % ALIGNMENT == 0 and offset + size <= ring.size_bytes


@given(sizes=SIZES, size_bytes=st.integers(0, 40_000))
def test_copies_that_are_as_early_as_they_may_be_never_touch_a_block_that_is_still_to_compute(
    sizes: list[int], size_bytes: int
) -> None:
    ring = staging_ring(sizes, size_bytes)
    turns = len(ring.offsets)
    owner = [-1] * ring.size_bytes
    segments = ((turn, segment) for turn in itertools.count() for segment in ring.segments[turn % turns])
    issued, segment = next(segments)
    for turn in range(3 * turns):
        while issued - segment.distance < turn:
            begin = ring.offsets[issued % turns]
            owner[begin + segment.begin : begin + segment.end] = [issued] * (segment.end - segment.begin)
            issued, segment = next(segments)
        begin, size = ring.offsets[turn % turns], sizes[turn % len(sizes)]
        assert set(owner[begin : begin + size]) == {turn}


def test_three_equal_places_let_two_copies_run_ahead_of_the_block_that_computes() -> None:
    ring = staging_ring([1024] * 9, 3 * 1024)
    assert ring.offsets == (0, 1024, 2048) * 3
    assert _distances(ring) == [{3}] * len(ring.offsets)


@given(count=st.integers(1, 40), places=st.integers(1, 3))
def test_equal_blocks_never_wait_longer_than_there_are_places_whatever_their_number(count: int, places: int) -> None:
    ring = staging_ring([1024] * count, places * 1024)
    assert _distances(ring) == [{min(places, count)}] * len(ring.offsets)


@given(sizes=SIZES, size_bytes=st.integers(0, 40_000))
def test_the_pieces_of_a_block_are_all_of_it_and_the_last_is_the_one_that_waits_longest(
    sizes: list[int], size_bytes: int
) -> None:
    ring = staging_ring(sizes, size_bytes)
    for turn, segments in enumerate(ring.segments):
        covered = sorted((segment.begin, segment.end) for segment in segments)
        assert [0, *(end for _, end in covered)] == [
            *(begin for begin, _ in covered),
            aligned(sizes[turn % len(sizes)]),
        ]
        assert [segment.distance for segment in segments] == sorted(
            (segment.distance for segment in segments), reverse=True
        )


def test_a_large_block_comes_in_pieces_where_it_lies_over_several_small_ones() -> None:
    ring = staging_ring([2048, 512, 512, 512, 512, 512, 512], 4096)
    assert max(len(segments) for segments in ring.segments) > 1


def test_small_blocks_lie_closer_so_more_of_them_are_on_their_way() -> None:
    ring = staging_ring([2048, 512, 512, 512, 512, 512, 512], 4096)
    assert ring.offsets[:6] == (0, 2048, 2560, 3072, 3584, 0)


def test_nothing_to_stream_needs_no_buffer() -> None:
    assert staging_ring([], 10_000).size_bytes == 0


def _distances(ring: StagingRing) -> list[set[int]]:
    return [{segment.distance for segment in segments} for segments in ring.segments]
