"""Interleave: offloaded blocks lie between those that the compute device stores, all along the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from multigpu.multigpu_core.strategies.block_selection import keep_evenly, pick_evenly
from multigpu.multigpu_core.strategies.in_turn import Pick, assign_in_turn
from multigpu.multigpu_core.strategies.strategy import Strategy

if TYPE_CHECKING:
    from multigpu.multigpu_core.allocation.inventory.inventory import Block


def assign(
    blocks: Sequence[Block], compute_device: str, target_bytes: Mapping[str, int], free_bytes: Mapping[str, int]
) -> list[str]:
    # By name, not as written: a byte string lists devices by first use, and must give the same order. cpu comes
    # last because it is the likeliest to have room for what the others leave.
    donors = sorted(target_bytes.keys() - {compute_device}, key=lambda name: (name == "cpu", name))
    work = [block.work or block.size_bytes for block in blocks]
    picks: dict[str, Pick] = {compute_device: partial(keep_evenly, work), **dict.fromkeys(donors, pick_evenly)}
    return assign_in_turn([block.size_bytes for block in blocks], picks, target_bytes, free_bytes)


STRATEGY = Strategy(
    "interleave", "spreads the offloaded blocks over the model, so that their transfers can hide behind compute", assign
)
