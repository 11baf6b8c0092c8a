"""Relay: donors compute chunks of consecutive blocks; what the cpu stores lies among the compute device's blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from multigpu.multigpu_core.strategies.relay_chunks import ChunkPicker
from multigpu.multigpu_core.strategies.strategy import Strategy

if TYPE_CHECKING:
    from multigpu.multigpu_core.allocation.inventory.inventory import Block


def assign(
    blocks: Sequence[Block], compute_device: str, target_bytes: Mapping[str, int], free_bytes: Mapping[str, int]
) -> list[str]:
    relays = sorted(target_bytes.keys() - {compute_device, "cpu"})
    picker = ChunkPicker([block.size_bytes for block in blocks], [block.work or block.size_bytes for block in blocks])
    device_of = [compute_device] * len(blocks)
    owed = 0
    for device in reversed(relays):  # from the end of each round, so that every round begins on the compute device
        owed += target_bytes[device]
        for i in picker.pick(owed, free_bytes[device]):
            device_of[i] = device
            owed -= blocks[i].size_bytes
    own = {device: size for device, size in target_bytes.items() if device not in relays}
    own[compute_device] += owed
    left = picker.left
    others = Strategy.INTERLEAVE.assign([blocks[i] for i in left], compute_device, own, free_bytes)
    for i, device in zip(left, others, strict=True):
        device_of[i] = device
    return device_of


STRATEGY = Strategy(
    "relay",
    "lets the other GPUs compute the blocks that they store, so that activations travel instead of weights",
    assign,
    relays=True,
)
