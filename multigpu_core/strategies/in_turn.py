"""Serve the devices one after the other, each with blocks that the ones before it left.

Each device picks about as many bytes as bring all devices served so far to the sum of their targets; so no error adds
up, each device ends within one block of its target, and the last one takes what is left. A device without room for the
block nearest to its target passes less than a block on to the next, so with n such devices a share can be n + 1 blocks
from its target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import compress

Pick = Callable[[Sequence[int], int, int], list[bool]]
"""From sizes, wanted bytes and the most there may be: which blocks."""


def assign_in_turn(
    sizes: Sequence[int],
    picks: Mapping[str, Pick],
    target_bytes: Mapping[str, int],
    free_bytes: Mapping[str, int],
) -> list[str]:
    """The device of each block; `picks` has the devices in the order of serving, with how each picks."""
    *served, last = picks
    device_of = [last] * len(sizes)
    left = list(range(len(sizes)))
    owed = 0
    for device in served:
        owed += target_bytes[device]
        left_sizes = [sizes[i] for i in left]
        picked = picks[device](left_sizes, owed, free_bytes[device])
        for i in compress(left, picked):
            device_of[i] = device
        owed -= sum(compress(left_sizes, picked))
        left = [i for i, is_picked in zip(left, picked, strict=True) if not is_picked]
    return device_of
