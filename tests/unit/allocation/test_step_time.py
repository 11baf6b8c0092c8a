"""What a step is predicted to take: never less than physics asks, and quickly told."""

from __future__ import annotations

import time

from multigpu.multigpu_core.allocation import AllocationPlan, BlockKind, Placement, Strategy, predict_step
from multigpu.multigpu_core.devices import HardwareProfile, LinkSpeed

from .planning import model

MB = 1 << 20
SPEEDS = HardwareProfile({("cpu", "cuda:0"): LinkSpeed(25e9, 13e9, 1e-5)}, {"cuda:0": {"bfloat16": 1e14}})


def test_a_step_of_five_thousand_blocks_is_predicted_in_a_moment() -> None:
    sizes = [(5 + index * 7919 % 11) * 10 * MB for index in range(5000)]
    inventory = model(*sizes, work=[size // 2 for size in sizes])
    placements = tuple(
        Placement(block, "cpu" if index % 2 and block.kind is not BlockKind.HEAD else "cuda:0")
        for index, block in enumerate(inventory.blocks)
    )
    plan = AllocationPlan("cuda:0", Strategy.INTERLEAVE, placements, staging_bytes=3 * max(sizes))
    seconds = []
    for _ in range(5):
        started = time.process_time()
        predict_step(plan, SPEEDS)
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.5
