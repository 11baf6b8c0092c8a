"""What a step is predicted to take: never less than physics asks, and told with little work."""

from __future__ import annotations

from collections.abc import Callable

from multigpu.multigpu_core.allocation import AllocationPlan, BlockKind, Placement, Strategy, predict_step
from multigpu.multigpu_core.devices import HardwareProfile, LinkSpeed

from .planning import model

MB = 1 << 20
SPEEDS = HardwareProfile({("cpu", "cuda:0"): LinkSpeed(25e9, 13e9, 1e-5)}, {"cuda:0": {"bfloat16": 1e14}})


def alternating(blocks: int) -> AllocationPlan:
    """A plan of that many blocks, every second one offloaded."""
    sizes = [(5 + index * 7919 % 11) * 10 * MB for index in range(blocks)]
    inventory = model(*sizes, work=[size // 2 for size in sizes])
    placements = tuple(
        Placement(block, "cpu" if index % 2 and block.kind is not BlockKind.HEAD else "cuda:0")
        for index, block in enumerate(inventory.blocks)
    )
    return AllocationPlan("cuda:0", Strategy.INTERLEAVE, placements, staging_bytes=3 * max(sizes))


def test_four_times_the_blocks_take_about_four_times_the_work(steps_of: Callable[[Callable[[], object]], int]) -> None:
    few, many = alternating(500), alternating(2000)
    assert steps_of(lambda: predict_step(many, SPEEDS)) < 6 * steps_of(lambda: predict_step(few, SPEEDS))
