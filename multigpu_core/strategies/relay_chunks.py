"""Split blocks into consecutive chunks, assigned to the devices in rotation: the partition for the relay.

The sequence is cut into as many rounds as each card shall have chunks, equal in work as far as blocks allow. In every
round the first blocks belong to whoever is not picked for, and a device's chunk is taken off the end of what is left:

    round      |------ 1 ------|------ 2 ------|
    blocks     a a a a d d d d a a a a d d d d        a: the compute device, d: a donor

`ChunkPicker.pick` is a projection like those of block_selection.py: its selections grow one block at a time, always in
the round that is behind in work, so their sizes rise strictly, and of all of them it takes the one nearest to the
bytes wanted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

MAX_ROUNDS = 4
"""Two halves of a step in micro-batches over two equal cards take (1 + 1/(2 rounds)) / 2 of the time of one card."""
_LEAST_BLOCKS_PER_ROUND = 2


def round_count(block_count: int) -> int:
    """How many chunks each card gets: fewer where there are few blocks."""
    return max(1, min(MAX_ROUNDS, block_count // _LEAST_BLOCKS_PER_ROUND))


class ChunkPicker:
    """Hands out the blocks of one sequence, one device after the other: positive sizes in bytes, and positive work."""

    def __init__(self, sizes: Sequence[int], work: Sequence[int]) -> None:
        self._sizes = tuple(sizes)
        self._work = tuple(work)
        borders = _round_borders(self._work, round_count(len(self._work)))
        self._rounds = [list(range(start, end)) for start, end in zip([0, *borders], borders, strict=False)]

    @property
    def left(self) -> list[int]:
        """The indices of the blocks that nobody has, in order."""
        return [index for blocks in self._rounds for index in blocks]

    def pick(self, wanted: int, limit: int) -> list[int]:
        """About `wanted` bytes and at most `limit`, from the end of each round: the indices of the blocks, in order."""
        wanted = max(0, min(wanted, limit))
        best: list[int] = []
        best_distance, size = wanted, 0
        picked: list[int] = []
        for index in self._growth():
            picked.append(index)
            size += self._sizes[index]
            if size > limit or size - wanted >= best_distance:
                break
            if abs(size - wanted) < best_distance:
                best, best_distance = picked[:], abs(size - wanted)
        taken = set(best)
        self._rounds = [[index for index in blocks if index not in taken] for blocks in self._rounds]
        return sorted(best)

    def _growth(self) -> Iterator[int]:
        """The blocks that are left in the order in which selections take them up."""
        rounds = [blocks[:] for blocks in self._rounds]
        totals = [sum(self._work[index] for index in blocks) for blocks in rounds]
        taken = [0] * len(rounds)
        for _ in range(sum(map(len, rounds))):
            open_rounds = [r for r, blocks in enumerate(rounds) if blocks]
            behind = open_rounds[0]
            for r in open_rounds[1:]:
                if taken[r] * totals[behind] < taken[behind] * totals[r]:
                    behind = r
            index = rounds[behind].pop()
            taken[behind] += self._work[index]
            yield index


def _round_borders(work: Sequence[int], rounds: int) -> list[int]:
    """Where each round ends: at the block border nearest to its part of the work, the earlier of two."""
    borders = [0, *accumulate(work)]
    ends = []
    for r in range(1, rounds + 1):
        wanted = borders[-1] * r  # times `rounds`, so that everything stays whole
        place = bisect_left(borders, wanted, key=lambda border: border * rounds)
        if place and wanted - borders[place - 1] * rounds <= borders[place] * rounds - wanted:
            place -= 1
        ends.append(place)
    return ends
