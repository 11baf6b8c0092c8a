"""How fast a machine is: every link between its devices, and what each device computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LinkSpeed:
    """One direction between two devices.

    `bytes_per_second` is that of the best way there is: from pinned host memory, or from card to card (through
    peer access where the driver has it, through host memory where not). `pageable_bytes_per_second` is that of ordinary
    host memory, where the cpu is one end, and blocks the host; between cards it is the same as the other.
    """

    bytes_per_second: float
    pageable_bytes_per_second: float
    latency_seconds: float = 0.0


PUBLISHED_SPEEDS = "an RTX 3090 on PCIe 4.0 x16"
"""What the published speeds are those of."""


@dataclass(frozen=True)
class HardwareProfile:
    """`links` by (from, to), canonical device names.

    `flops_per_second` are those of matrix products, by device and then by dtype name (``bfloat16``). `is_measured` says
    whether they are this machine's own, or as published for its kind. `is_simulated`: published ones, of devices that
    are only simulated; plans may be compared by them, but they predict nothing.
    """

    links: Mapping[tuple[str, str], LinkSpeed]
    flops_per_second: Mapping[str, Mapping[str, float]]
    is_measured: bool = False
    is_simulated: bool = False
