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
    for offset, size in zip(ring.offsets, sizes, strict=True):
        assert offset % ALIGNMENT == 0 and offset + size <= ring.size_bytes


@given(sizes=SIZES, size_bytes=st.integers(0, 40_000))
def test_copies_that_are_as_early_as_they_may_be_never_touch_a_block_that_is_still_to_compute(
    sizes: list[int], size_bytes: int
) -> None:
    ring = staging_ring(sizes, size_bytes)
    count = len(sizes)
    owner = [-1] * ring.size_bytes
    issued = 0
    for turn in range(3 * count):
        while issued - _distance(ring.waits_for, issued % count) < turn:
            begin = ring.offsets[issued % count]
            owner[begin : begin + sizes[issued % count]] = [issued] * sizes[issued % count]
            issued += 1
        begin = ring.offsets[turn % count]
        assert set(owner[begin : begin + sizes[turn % count]]) == {turn}


def _distance(waits_for: tuple[int, ...], index: int) -> int:
    """How many turns ago the block was that a copy has to wait for."""
    return (index - waits_for[index] - 1) % len(waits_for) + 1


def test_three_equal_places_let_two_copies_run_ahead_of_the_block_that_computes() -> None:
    ring = staging_ring([1024] * 9, 3 * 1024)
    assert ring.offsets == (0, 1024, 2048) * 3
    assert ring.waits_for == (6, 7, 8, 0, 1, 2, 3, 4, 5)


def test_small_blocks_lie_closer_so_more_of_them_are_on_their_way() -> None:
    ring = staging_ring([2048, 512, 512, 512, 512, 512, 512], 4096)
    assert ring.offsets == (0, 2048, 2560, 3072, 3584, 0, 512)


def test_nothing_to_stream_needs_no_buffer() -> None:
    assert staging_ring([], 10_000).size_bytes == 0
