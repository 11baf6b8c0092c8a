"""Which blocks hold a wanted number of bytes: evenly spread ones, or the first ones.

A block whose layers are placed one by one is a run of neighbours here; what is said of blocks holds for these layers.

The pickers are projections: of all the selections in a fixed family they take the one whose bytes come nearest to what
is wanted, so that wanting exactly those bytes picks the same blocks again: so a byte string can reproduce a plan. They
never pick more than `limit` bytes and stay within one block of what is wanted if the limit allows it.
Sizes are positive; the result says for each block whether it is picked.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from itertools import accumulate, groupby
from typing import NamedTuple


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
    """About `wanted` bytes, in proportion all along the sequence."""
    return _pick_along(sizes, wanted, limit, _proportional)


class Layer(NamedTuple):
    """A layer, or a whole block, as far as choosing goes; those of one `block` are neighbours."""

    size_bytes: int
    work: int
    block: str


def keep_evenly(layers: Sequence[Layer], sizes: Sequence[int], wanted: int, limit: int) -> list[bool]:
    """About `wanted` bytes, so that what is left is in proportion to the blocks' work all along the sequence.

    What is left is transferred while the blocks compute: so each transfer has the same time in which to hide. Of one
    block the layers that come first are picked first.
    """
    return _pick_along(sizes, wanted, limit, partial(_beside_work, layers))


Amounts = Callable[[Sequence[int], int], tuple[list[int], int]]
"""From sizes and wanted bytes: how much of each block to take, none more than the block, and what to divide that by.

The amounts sum to the wanted bytes.
"""


def _pick_along(sizes: Sequence[int], wanted: int, limit: int, amounts: Amounts) -> list[bool]:
    """Whole blocks that follow the amounts.

    The family: one such selection for every multiple of the largest block, which comes within half that block of it,
    so that their sizes rise strictly; and between two neighbours the selections that begin like the upper and go on
    like the lower one.
    """
    total = sum(sizes)
    wanted = max(0, min(wanted, limit))
    if wanted >= total:
        return [True] * len(sizes)
    lower, upper = _neighbours(sizes, wanted, amounts)
    smallest, largest = _size(sizes, lower), _size(sizes, upper)
    best, nearest, running = 0, (wanted - smallest, smallest), smallest
    for i, size in enumerate(sizes):
        if lower[i] != upper[i]:
            running += size if upper[i] else -size
            found = (abs(running - wanted), running)  # of two that are equally near, the smaller
            if smallest <= running < largest and running <= limit and found < nearest:
                best, nearest = i + 1, found
    if largest <= limit and (largest - wanted, largest) < nearest:
        return upper
    return upper[:best] + lower[best:]


def _neighbours(sizes: Sequence[int], wanted: int, amounts: Amounts) -> tuple[list[bool], list[bool]]:
    """The two selections of the family with the bytes of the first <= `wanted` < those of the second."""
    step = max(sizes)
    level = wanted // step
    lower, upper = _whole(sizes, level * step, amounts), _whole(sizes, (level + 1) * step, amounts)
    if _size(sizes, lower) > wanted:
        return _whole(sizes, (level - 1) * step, amounts), lower
    if _size(sizes, upper) <= wanted:
        return upper, _whole(sizes, (level + 2) * step, amounts)
    return lower, upper


def _whole(sizes: Sequence[int], wanted: int, amounts: Amounts) -> list[bool]:
    """Bresenham's line over the blocks: at each border the bytes picked are within half a block of the amounts."""
    if wanted >= sum(sizes):
        return [True] * len(sizes)
    parts, divisor = amounts(sizes, wanted)
    picked = []
    twice_owed = 0  # in units of 1/divisor bytes, twice, so that everything stays whole
    for size, part in zip(sizes, parts, strict=True):
        twice_owed += 2 * part
        pick = twice_owed >= size * divisor
        if pick:
            twice_owed -= 2 * size * divisor
        picked.append(pick)
    return picked


def _proportional(sizes: Sequence[int], wanted: int) -> tuple[list[int], int]:
    return [wanted * size for size in sizes], sum(sizes)


def _beside_work(layers: Sequence[Layer], sizes: Sequence[int], wanted: int) -> tuple[list[int], int]:
    """What is left of each block beside a share of the others' bytes in proportion to its work.

    The first layer of a block bears what the whole block does.
    """
    blocks = [list(of_block) for _, of_block in groupby(layers, key=lambda layer: layer.block)]
    block_sizes = [sum(layer.size_bytes for layer in block) for block in blocks]
    parts, divisor = _blocks_beside_work([sum(layer.work for layer in block) for block in blocks], block_sizes, wanted)
    spread = [part if i == 0 else 0 for part, block in zip(parts, blocks, strict=True) for i in range(len(block))]
    return spread, divisor


def _blocks_beside_work(work: Sequence[int], sizes: Sequence[int], wanted: int) -> tuple[list[int], int]:
    """The same of whole blocks. One that is too small for its share is left out, and the others have the more."""
    others = sum(sizes) - wanted
    open_work = sum(work)
    whole = [False] * len(sizes)
    for i in sorted(range(len(sizes)), key=lambda i: (not work[i], Fraction(sizes[i], work[i] or 1), i)):
        if not open_work or sizes[i] * open_work > others * work[i]:
            break
        whole[i] = True
        others -= sizes[i]
        open_work -= work[i]
    if not open_work:  # no work is left to go by
        rest = sum(size for size, is_whole in zip(sizes, whole, strict=True) if not is_whole)
        return [0 if w else size * (rest - others) for size, w in zip(sizes, whole, strict=True)], max(1, rest)
    return [
        0 if is_whole else size * open_work - others * each
        for size, each, is_whole in zip(sizes, work, whole, strict=True)
    ], open_work


def _size(sizes: Sequence[int], picked: Sequence[bool]) -> int:
    return sum(size for size, is_picked in zip(sizes, picked, strict=True) if is_picked)
