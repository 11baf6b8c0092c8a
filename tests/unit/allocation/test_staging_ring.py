"""Streamed blocks share one buffer, and none is overwritten before it was computed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from multigpu.multigpu_core.allocation import staging_ring
from multigpu.multigpu_core.allocation.staging_ring import ALIGNMENT, aligned

SIZES = st.lists(st.integers(1, 5000), min_size=1, max_size=30)


@given(sizes=SIZES, size_bytes=st.integers(0, 40_000))
def test_the_buffer_is_no_larger_than_allowed_unless_one_block_is(sizes: list[int], size_bytes: int) -> None:
    ring = staging_ring(sizes, size_bytes)
    largest = max(map(aligned, sizes))
    assert largest <= ring.size_bytes <= max(largest, size_bytes)
    assert ring.size_bytes <= sum(map(aligned, sizes))
    assert len(ring.offsets) == len(ring.distances) == ring.laps * len(sizes)
    for offset, size in zip(ring.offsets, sizes * ring.laps, strict=True):
        assert offset % ALIGNMENT == 0 and offset + size <= ring.size_bytes


@given(sizes=SIZES, size_bytes=st.integers(0, 40_000))
def test_copies_that_are_as_early_as_they_may_be_never_touch_a_block_that_is_still_to_compute(
    sizes: list[int], size_bytes: int
) -> None:
    ring = staging_ring(sizes, size_bytes)
    turns = len(ring.offsets)
    owner = [-1] * ring.size_bytes
    issued = 0
    for turn in range(3 * turns):
        while issued - ring.distances[issued % turns] < turn:
            begin, size = ring.offsets[issued % turns], sizes[issued % len(sizes)]
            owner[begin : begin + size] = [issued] * size
            issued += 1
        begin, size = ring.offsets[turn % turns], sizes[turn % len(sizes)]
        assert set(owner[begin : begin + size]) == {turn}


def test_three_equal_places_let_two_copies_run_ahead_of_the_block_that_computes() -> None:
    ring = staging_ring([1024] * 9, 3 * 1024)
    assert ring.offsets == (0, 1024, 2048) * 3
    assert set(ring.distances) == {3}


@given(count=st.integers(1, 40), places=st.integers(1, 3))
def test_equal_blocks_never_wait_longer_than_there_are_places_whatever_their_number(count: int, places: int) -> None:
    ring = staging_ring([1024] * count, places * 1024)
    assert set(ring.distances) == {min(places, count)}


def test_small_blocks_lie_closer_so_more_of_them_are_on_their_way() -> None:
    ring = staging_ring([2048, 512, 512, 512, 512, 512, 512], 4096)
    assert ring.offsets[:6] == (0, 2048, 2560, 3072, 3584, 0)


def test_nothing_to_stream_needs_no_buffer() -> None:
    assert staging_ring([], 10_000).size_bytes == 0
