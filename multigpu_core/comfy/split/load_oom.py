"""A load that ran out of memory: on which device, how much fit there, and the error for the user."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from multigpu.multigpu_core.allocation import readable_bytes


@dataclass(frozen=True)
class Shortage:
    """What fit on a device of a model's weights and staging buffer, and what was planned. Sizes are bytes."""

    device: str
    planned_bytes: int
    placed_bytes: int

    def __str__(self) -> str:
        planned, placed = readable_bytes(self.planned_bytes), readable_bytes(self.placed_bytes)
        return f"{self.device} ran out of memory: only {placed} of the planned {planned} of weights and staging fit"


class LoadOutOfMemoryError(torch.cuda.OutOfMemoryError):  # so that ComfyUI's executor sees what it is
    """A split that the user wrote out does not fit in the memory that is really free.

    `shortage` says where; `fitting_string` is an expert string that would fit, empty where there is none.
    """

    def __init__(self, shortage: Shortage, fitting_string: str) -> None:
        self.shortage = shortage
        self.fitting_string = fitting_string
        way_out = f'"{fitting_string}" would fit.' if fitting_string else "Free memory, or use a smaller model file."
        super().__init__(f"{shortage}. {way_out}")
