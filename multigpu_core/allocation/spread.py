"""Which blocks hold a wanted number of bytes: evenly spread ones, or the first ones.

The pickers are projections: of all the selections in a fixed family they take the one whose bytes come nearest to what
is wanted, so that wanting exactly those bytes picks the same blocks again: so a byte string can reproduce a plan. They
never pick more than `limit` bytes and stay within one block of what is wanted if the limit allows it.
Sizes are positive; the result says for each block whether it is picked.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate


def pick_first(sizes: Sequence[int], wanted: int, limit: int) -> list[bool]:
    """The beginning that ends at the block border nearest to `wanted` bytes."""
    borders = [0, *accumulate(sizes)]
    count = bisect_right(borders, max(0, min(wanted, limit))) - 1
    if count < len(sizes) and borders[count + 1] <= limit and borders[count + 1] - wanted < wanted - borders[count]:
        count += 1
    return [i < count for i in range(len(sizes))]


def pick_last(sizes: Sequence[int], wanted: int, limit: int) -> list[bool]:
    """The end that begins at the block border nearest to `wanted` bytes from the end."""
    return pick_first(sizes[::-1], wanted, limit)[::-1]


def pick_evenly(sizes: Sequence[int], wanted: int, limit: int) -> list[bool]:
    """About `wanted` bytes, in proportion all along the sequence.

    The family: one even selection for every multiple of the largest block, which comes within half that block of it,
    so that their sizes rise strictly; and between two neighbours the selections that begin like the upper and go on
    like the lower one.
    """
    total = sum(sizes)
    wanted = max(0, min(wanted, limit))
    if wanted >= total:
        return [True] * len(sizes)
    lower, upper = _neighbours(sizes, wanted)
    smallest, largest = _size(sizes, lower), _size(sizes, upper)
    best, best_distance, running = 0, wanted - smallest, smallest
    for i, size in enumerate(sizes):
        if lower[i] != upper[i]:
            running += size if upper[i] else -size
            if smallest <= running < largest and running <= limit and abs(running - wanted) < best_distance:
                best, best_distance = i + 1, abs(running - wanted)
    if largest <= limit and largest - wanted < best_distance:
        return upper
    return upper[:best] + lower[best:]


def _neighbours(sizes: Sequence[int], wanted: int) -> tuple[list[bool], list[bool]]:
    """The two even selections of the family with the bytes of the first <= `wanted` < those of the second."""
    step = max(sizes)
    level = wanted // step
    lower, upper = _even(sizes, level * step), _even(sizes, (level + 1) * step)
    if _size(sizes, lower) > wanted:
        return _even(sizes, (level - 1) * step), lower
    if _size(sizes, upper) <= wanted:
        return upper, _even(sizes, (level + 2) * step)
    return lower, upper


def _even(sizes: Sequence[int], wanted: int) -> list[bool]:
    """Bresenham's line over the blocks: at each border the bytes picked are within half a block of their proportion."""
    total = sum(sizes)
    if wanted >= total:
        return [True] * len(sizes)
    picked = []
    twice_owed = 0  # in units of 1/total bytes, twice, so that everything stays whole
    for size in sizes:
        twice_owed += 2 * wanted * size
        pick = twice_owed >= size * total
        if pick:
            twice_owed -= 2 * size * total
        picked.append(pick)
    return picked


def _size(sizes: Sequence[int], picked: Sequence[bool]) -> int:
    return sum(size for size, is_picked in zip(sizes, picked, strict=True) if is_picked)
