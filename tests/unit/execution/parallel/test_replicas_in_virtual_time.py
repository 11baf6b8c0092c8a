"""How long replicas take, on simulated devices with a clock: two prompts on two devices, with and without streaming."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from multigpu.multigpu_core.devices import HardwareProfile, LinkSpeed
from multigpu.multigpu_core.execution.parallel.replicas import work_for
from multigpu.multigpu_core.simulation.time.clock import ClockSettings
from multigpu.testing import SimulatedMachine

from .replicated import BLOCKS, COMPUTE, WIDTH, Model, replicated, step

TOKENS = 256
FLOPS_PER_SECOND = 1e6
PASS_SECONDS = (BLOCKS + 2) * 2 * TOKENS * WIDTH**2 / FLOPS_PER_SECOND
"""One pass through the model: each block and head is one product of matrices."""
LAUNCH_SECONDS = PASS_SECONDS / 20_000
"""A pass launches 30 operators or so: as an image model's, it is not bound by the host."""
BLOCK_BYTES = 512
"""Of a block as it is copied: two tensors, each of which begins at a multiple of 256."""
PAIR = (("npu:0", 50), ("npu:1", 50))


@pytest.fixture
def machine(simulated_machine: SimulatedMachine) -> Iterator[SimulatedMachine]:
    simulated_machine.configure((10**8, 10**8))
    with torch.inference_mode():
        yield simulated_machine
    simulated_machine.clock.stop()


def settings(link_bytes_per_second: float) -> ClockSettings:
    fast = LinkSpeed(1e9, 1e9)
    link = LinkSpeed(link_bytes_per_second, link_bytes_per_second)
    links = {(a, b): fast for a in ("npu:0", "npu:1") for b in ("npu:0", "npu:1", "cpu") if a != b}
    links |= {("cpu", device): link for device in ("npu:0", "npu:1")}
    rates = {device: {"float32": FLOPS_PER_SECOND} for device in ("npu:0", "npu:1")}
    return ClockSettings(HardwareProfile(links, rates), launch_seconds=LAUNCH_SECONDS)


def prompts() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(TOKENS, WIDTH, generator=generator).to(COMPUTE) for _ in range(2)]


def seconds_of(machine: SimulatedMachine, clock: ClockSettings, work: Callable[[], object], steps: int = 4) -> float:
    def now() -> float:
        for device in ("npu:0", "npu:1"):
            machine.module.synchronize(device)
        return machine.clock.now_seconds

    work()
    machine.clock.start(clock)
    work()
    begin = now()
    for _ in range(steps):
        work()
    return (now() - begin) / steps


@pytest.mark.parametrize(
    ("offloaded", "blocks_copied_per_pass"),
    [((), 0.0), ((1, 3), 0.5 * BLOCKS), ((0, 1, 2, 3), 4 * BLOCKS)],
    ids=["all resident", "half streamed, hidden", "all streamed, bound by the link"],
)
def test_two_devices_take_half_of_what_one_takes(
    machine: SimulatedMachine, offloaded: tuple[int, ...], blocks_copied_per_pass: float
) -> None:
    """The link copies what is offloaded in this part of a pass; beyond 1 it is the bound."""
    share = blocks_copied_per_pass / BLOCKS
    rate = len(offloaded) * BLOCK_BYTES / (share * PASS_SECONDS) if offloaded else 1e9
    given = prompts()
    model = Model()
    distribution = replicated(model, PAIR, offloaded)
    together = seconds_of(machine, settings(rate), lambda: step(distribution, given))
    distribution.compute_alone()
    alone = seconds_of(machine, settings(rate), lambda: [model(x) for x in given])
    assert alone >= 2 * PASS_SECONDS * max(1.0, share) * 0.9
    assert alone / together >= 1.95
    assert together <= 1.05 * max(1.0, share) * PASS_SECONDS


def test_equal_items_go_where_they_end_first() -> None:
    assert work_for(2, (50, 50)) == {0: [0], 1: [1]}
    assert work_for(2, (75, 25)) == {0: [0, 1]}
    assert work_for(4, (75, 25)) == {0: [0, 1, 2], 1: [3]}
    assert work_for(5, (50, 30, 20)) == {0: [0, 1, 2], 1: [3], 2: [4]}
    assert work_for(3, (0, 50, 50)) == {1: [0, 1], 2: [2]}
    assert work_for(2, (0, 0)) == {0: [0, 1]}
