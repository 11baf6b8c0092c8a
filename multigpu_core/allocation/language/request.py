"""The parsed form of an allocation string and of a node's widgets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fractions import Fraction

from multigpu.multigpu_core.strategies.strategy import Strategy


class AllocationMode(str, Enum):
    """How the shares of a request are measured."""

    NONE = "none"
    """An ordinary load: everything on the compute device."""
    BYTES = "bytes"
    RATIO = "ratio"
    FRACTION = "fraction"
    """Shares of each device's total memory."""
    VIRTUAL_VRAM = "virtual_vram"
    """Move a number of bytes off the compute device to donors."""
    AUTO = "auto"
    """What fits now, from free memory on all devices."""


@dataclass(frozen=True)
class Share:
    """One device's part of an expert string, in the order in which it was written.

    `amount` is whole bytes in BYTES mode, a non-negative weight in RATIO mode (percent as written), and a fraction of
    the device's total memory in FRACTION mode. `takes_rest` marks the device with ``*``; there `amount` is the least it
    gets first (0 for a bare ``*``).
    """

    device: str
    amount: Fraction
    takes_rest: bool = False


@dataclass(frozen=True)
class AllocationRequest:
    """Where to store a model's weights.

    `shares` is set in BYTES, RATIO and FRACTION mode; `virtual_vram_bytes` and `donors` (canonical names, in the order
    in which they are filled) in VIRTUAL_VRAM mode. Device names are canonical and known to exist.
    """

    compute_device: str
    mode: AllocationMode = AllocationMode.NONE
    shares: tuple[Share, ...] = ()
    virtual_vram_bytes: int = 0
    donors: tuple[str, ...] = ()
    strategy: Strategy = Strategy.INTERLEAVE

    @property
    def is_explicit(self) -> bool:
        """Whether the user wrote every share: such a request is refused rather than bent when it does not fit."""
        return self.mode in (AllocationMode.BYTES, AllocationMode.RATIO, AllocationMode.FRACTION)

    @property
    def splits(self) -> bool:
        """Whether the weights may lie on more than the compute device."""
        return self.mode is not AllocationMode.NONE
