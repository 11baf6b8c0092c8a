"""Contiguous: the beginning of the model is offloaded, in one piece for each donor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from multigpu.multigpu_core.strategies.block_selection import pick_first, pick_last
from multigpu.multigpu_core.strategies.in_turn import assign_in_turn
from multigpu.multigpu_core.strategies.strategy import Strategy

if TYPE_CHECKING:
    from multigpu.multigpu_core.allocation.inventory.inventory import Block


def assign(
    blocks: Sequence[Block], compute_device: str, target_bytes: Mapping[str, int], free_bytes: Mapping[str, int]
) -> list[str]:
    picks = {device: pick_last if device == compute_device else pick_first for device in target_bytes}
    return assign_in_turn([block.size_bytes for block in blocks], picks, target_bytes, free_bytes)


STRATEGY = Strategy("contiguous", "offloads the beginning of the model in one piece", assign)
