"""Two runs of one model side by side: do they give the same numbers, bit for bit, and what did each take?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Run:
    """What one run took.

    `peak_bytes` is the most that the compute device's memory held, loading included; None where the device does not
    tell. `bytes_by_device` counts the weights where they lie while the model computes.
    """

    what: str
    step_seconds: float
    peak_bytes: int | None
    bytes_by_device: Mapping[str, int]
    expert_string: str = ""
    """What gives this split again; empty for a model that is whole."""


@dataclass(frozen=True)
class Difference:
    """How two outputs of one shape differ: `differing` of `numbers` have other bits.

    `largest` and `mean` are absolute and over all numbers; infinite where one output is not finite and the other is.
    """

    numbers: int
    differing: int
    largest: float
    mean: float

    @classmethod
    def between(cls, expected: Tensor, found: Tensor) -> Difference:
        """Of two tensors on the cpu.

        Raises:
            ValueError: they have different shapes or types, so there is nothing to compare.
        """
        if expected.shape != found.shape or expected.dtype != found.dtype:
            one, other = (f"{tuple(tensor.shape)} of {tensor.dtype}" for tensor in (expected, found))
            raise ValueError(f"One run gave {one}, and the other {other}.")
        differing = int((_bits(expected) != _bits(found)).sum())
        distance = (expected.double() - found.double()).abs()
        distance[_bits(expected) == _bits(found)] = 0.0
        distance = distance.nan_to_num(nan=float("inf"), posinf=float("inf"))
        return cls(expected.numel(), differing, float(distance.max()), float(distance.mean()))

    @property
    def is_none(self) -> bool:
        return self.differing == 0


@dataclass(frozen=True)
class Parity:
    """A reference run, a split run, and what is between their outputs.

    `reference_repeats` says whether the reference gave its own output again, in a run after that of the split.
    `why_not_whole` says why the reference is not the model whole on the compute device; empty where it is.
    """

    compute_device: str
    reference: Run
    split: Run
    difference: Difference
    reference_repeats: bool = True
    why_not_whole: str = ""


def _bits(values: Tensor) -> Tensor:
    return values.contiguous().view(_INTEGERS[values.element_size()])
