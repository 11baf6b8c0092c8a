"""Interleave: offloaded blocks lie between those that the compute device stores, all along the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

from multigpu.multigpu_core.strategies.block_selection import Layer, keep_evenly, pick_evenly
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
    order = _least_work_first(blocks)
    is_estimated = any(block.work for block in blocks)
    layers = [
        Layer(blocks[i].size_bytes, blocks[i].work if is_estimated else blocks[i].size_bytes, blocks[i].whole_name)
        for i in order
    ]
    picks: dict[str, Pick] = {compute_device: partial(keep_evenly, layers), **dict.fromkeys(donors, pick_evenly)}
    chosen = assign_in_turn([layer.size_bytes for layer in layers], picks, target_bytes, free_bytes)
    device_of = dict(zip(order, chosen, strict=True))
    return [device_of[i] for i in range(len(blocks))]


def _least_work_first(blocks: Sequence[Block]) -> list[int]:
    """The blocks in their order; the layers of one block with the least compute for each byte first.

    Whoever is served first takes these: what is left is transferred while as much as can be computes.
    """
    order: list[int] = []
    for _, of_block in groupby(range(len(blocks)), key=lambda i: blocks[i].whole_name):
        order += sorted(of_block, key=lambda i: (Fraction(blocks[i].work, blocks[i].size_bytes), blocks[i].name))
    return order


STRATEGY = Strategy(
    "interleave", "spreads the offloaded blocks over the model, so that their transfers can hide behind compute", assign
)
