"""How fast the way to a worker is, measured through the calls that use it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .connection import Connection

SENT_BYTES = 16 << 20
REPEATS = 3


@dataclass(frozen=True)
class MeasuredLink:
    """What a call costs: a round trip of nothing, and bytes a second there and back."""

    round_trip_seconds: float
    there_bytes_per_second: float
    back_bytes_per_second: float


def measure_link(
    connection: Connection, sent_bytes: int = SENT_BYTES, clock: Callable[[], float] = time.perf_counter
) -> MeasuredLink:
    """Measure in both directions; the fastest of a few calls counts, because anything can slow one down."""
    load = torch.zeros(sent_bytes, dtype=torch.uint8)

    def fastest(**values: Any) -> float:
        times = []
        for _ in range(REPEATS):
            begun = clock()
            connection.call("echo", **values)
            times.append(clock() - begun)
        return min(times)

    round_trip = fastest(values=None)
    there, back = fastest(values=load), fastest(answer_bytes=sent_bytes)
    return MeasuredLink(
        round_trip, sent_bytes / _at_least(there - round_trip), sent_bytes / _at_least(back - round_trip)
    )


def _at_least(seconds: float) -> float:
    return max(seconds, 1e-6)
