"""Build the allocation request from a node's widgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from multigpu.multigpu_core.strategies.strategy import Strategy

from .device_names import KnownDevices, resolve
from .parser import parse_donors, parse_expert, parse_full, with_virtual_vram
from .request import AllocationRequest
from .source_span import SourceSpan


@dataclass(frozen=True)
class AllocationWidgets:
    """The raw values of a split node's widgets.

    `donors` is one device, a list of them in one string, or a sequence of names; `virtual_vram_gb` counts 1024³ bytes.
    """

    compute_device: str
    virtual_vram_gb: float = 0.0
    donors: str | Sequence[str] = "cpu"
    expert: str = ""
    strategy: Strategy = Strategy.INTERLEAVE


def request_from_widgets(widgets: AllocationWidgets, known: KnownDevices) -> AllocationRequest:
    """The request that a node's widgets make together.

    An expert string (``auto`` too) wins over virtual VRAM; in its full form,
    EXPERT#compute;gb;donors, over all widgets.
    With neither, and where the only donor is the compute device itself (the widgets' defaults on a machine without
    accelerators), it is an ordinary load on the compute device.
    Raises AllocationError that quotes the widget at fault.
    """
    if "#" in widgets.expert:
        return parse_full(widgets.expert, known=known, strategy=widgets.strategy)
    if widgets.expert.strip():
        return parse_expert(
            widgets.expert, compute_device=widgets.compute_device, known=known, strategy=widgets.strategy
        )
    compute = resolve(SourceSpan.of(widgets.compute_device, "Compute device"), known)
    plain = AllocationRequest(compute, strategy=widgets.strategy)
    amount = SourceSpan.of(str(widgets.virtual_vram_gb), "Virtual VRAM")
    if not math.isfinite(widgets.virtual_vram_gb) or widgets.virtual_vram_gb < 0:
        raise amount.error("Virtual VRAM is a number of gigabytes, not below 0.", "For example: 4.0")
    if widgets.virtual_vram_gb == 0:
        return plain
    donors = widgets.donors if isinstance(widgets.donors, str) else ",".join(widgets.donors)
    # The decimal text of a float is what the user typed; its binary value is not.
    gigabytes = Fraction(str(widgets.virtual_vram_gb))
    return with_virtual_vram(plain, amount, gigabytes, parse_donors(SourceSpan.of(donors, "Donor device"), known))
