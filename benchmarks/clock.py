"""A step of a split model in virtual time, against the limit max(T, V/B): the same figures on every machine.

python benchmarks/clock.py [--json] [--quick] [--trace FOLDER] [--keep FILE]

T is the step of the resident model, V the offloaded bytes, B the link's bytes a second. The models have Flux's, Wan's
and uniform proportions, small enough for a processor; their time is scaled so that T is that of the real model on an
RTX 4090. Steady state: the first step, which learns the order, is reported apart.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import torch
from records import Record, report
from shaped_models import Sizes, shaped_input, shaped_model
from torch import nn

from multigpu.multigpu_core.allocation import (
    AllocationMode,
    AllocationPlan,
    AllocationRequest,
    BlockKind,
    Inventory,
    Share,
    Strategy,
    plan_allocation,
)
from multigpu.multigpu_core.allocation.inventory.of_module import inventory_of_module
from multigpu.multigpu_core.allocation.planner.staging_choice import with_least_staging
from multigpu.multigpu_core.allocation.planner.step_time import TOKENS
from multigpu.multigpu_core.devices import HardwareProfile, LinkSpeed, default_registry
from multigpu.multigpu_core.execution import Distribution, PinnedMemory
from multigpu.testing import GB, ClockSettings, SimulatedMachine, chrome_trace, simulate, trace_picture

SIZES = Sizes(width=32, tokens=64, text_tokens=8)
SHAPES = ("uniform", "flux", "wan")
FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
STEPS = 3
WEIGHT_GB = {"uniform": 24.0, "flux": 23.8, "wan": 28.6}
"""Of the real models, in bfloat16."""
STEP_SECONDS = {"uniform": 0.9, "flux": 0.9, "wan": 25.0}
"""Of the real models resident on an RTX 4090: 1.25e14 operations a step for Flux at 1024 x 1024."""
LINKS = {
    "PCIe 3.0 x4": 3.2,
    "PCIe 3.0 x8": 6.8,
    "PCIe 4.0 x8": 13.0,
    "PCIe 4.0 x16": 25.0,
    "PCIe 5.0 x16": 52.0,
    "NVLink": 376.0,
}
"""Gigabytes a second one way, pinned."""
LATENCY_SECONDS = 10e-6
BALANCED = "V/B = T"
HOP_LINK = "PCIe 4.0 x8"
ACTIVATION_BYTES = 28e6
"""Of the real Flux: 4,608 tokens of 3,072 numbers in bfloat16."""
OTHER_CARD = 1 / 3
"""Speed of the unlike card."""
LIMITS = {"flux": {0.5: 1.03, 0.6: 1.05, 0.7: 1.07, 0.8: 1.09, 0.9: 1.15, 1.0: 1.21}}
"""What a step may take over the limit where copying takes as long as computing; 1.03 where nothing is said."""
MOST_GIB = {"flux": 0.77, "wan": 0.6}
"""What may be kept for streaming."""
FIRST_STEP = 1.35
ISSUE_SHARES = (0.0, 0.25, 0.5, 1.0)
"""What the host takes to issue a half, over what the half takes to compute."""


@dataclass(frozen=True)
class Step:
    first_seconds: float
    seconds: float


class Bench:
    """The simulated machine and the small models on it."""

    def __init__(self) -> None:
        self.machine: SimulatedMachine = simulate((GB, GB), backend="npu")
        self.registry = default_registry()
        self._resident: dict[str, float] = {}

    def rate(self, shape: str) -> float:
        """The flops a second at which the small model, resident, takes as long as the real one."""
        if shape not in self._resident:
            model = shaped_model(shape, SIZES).to("npu:0")
            x = shaped_input(SIZES).to("npu:0")
            step = self.timed(partial(model, x), self.profile(1.0, math.inf), steps=1)
            self._resident[shape] = step.seconds / STEP_SECONDS[shape]
        return self._resident[shape]

    def bytes_per_second(self, shape: str, link: str, offloaded_bytes: int) -> float:
        """A link's speed in the small model's own bytes."""
        if link == BALANCED:
            return offloaded_bytes / STEP_SECONDS[shape]
        small = inventory_of_module(shaped_model(shape, SIZES)).total_bytes
        return LINKS[link] / WEIGHT_GB[shape] * small

    def profile(self, rate: float, bytes_per_second: float, other_card: float = 1.0) -> HardwareProfile:
        link = LinkSpeed(bytes_per_second, bytes_per_second / 2, LATENCY_SECONDS)
        pairs = [pair for card in ("npu:0", "npu:1") for pair in (("cpu", card), (card, "cpu"))]
        return HardwareProfile(
            dict.fromkeys(pairs, link), {"npu:0": {"float32": rate}, "npu:1": {"float32": rate * other_card}}
        )

    def timed(
        self, work: Callable[[], object], profile: HardwareProfile, steps: int = STEPS, launch_seconds: float = 0.0
    ) -> Step:
        """Steps of which each ends with the host waiting for both cards."""
        clock = self.machine.clock
        clock.start(ClockSettings(profile, launch_seconds=launch_seconds))
        times = [0.0]
        for _ in range(steps + 1):
            work()
            for card in ("npu:0", "npu:1"):
                self.machine.module.current_stream(card).synchronize()  # and not for the copies ahead
            times.append(clock.now_seconds)
        clock.stop()
        return Step(times[1], (times[-1] - times[1]) / steps)

    def distributed(self, model: nn.Module, plan: AllocationPlan) -> Distribution:
        """The model as planned."""
        inventory = inventory_of_module(model)
        distribution = Distribution(model, inventory, self.registry, PinnedMemory(self.registry, GB))
        distribution.begin(plan)
        for placement in plan.placements:
            distribution.place(placement.block, placement.device)
        distribution.serve({placement.block.name: placement.device for placement in plan.placements})
        return distribution


def offload(inventory: Inventory, fraction: float, strategy: Strategy) -> AllocationRequest:
    """That part of the blocks' bytes in host memory."""
    movable = sum(block.size_bytes for block in inventory.blocks if block.kind is not BlockKind.HEAD)
    size = int(fraction * movable)
    return AllocationRequest(
        "npu:0", AllocationMode.VIRTUAL_VRAM, virtual_vram_bytes=size, donors=("cpu",), strategy=strategy
    )


@dataclass(frozen=True)
class Schedule:
    """One model, split one way, ready to be timed over any link."""

    shape: str
    model: nn.Module
    step: Callable[[], None]
    plan: AllocationPlan

    @property
    def offloaded_bytes(self) -> int:
        return sum(placement.block.size_bytes for placement in self.plan.streamed)


def schedule(
    bench: Bench, shape: str, fraction: float, strategy: Strategy, link: str, *, just_in_time: bool = False
) -> Schedule:
    """Staging is as large as a plan for that link would have it; just in time, room for two layers."""
    model = shaped_model(shape, SIZES)
    x = shaped_input(SIZES).to("npu:0")
    inventory = inventory_of_module(model)
    plan = plan_allocation(inventory, offload(inventory, fraction, strategy), bench.registry.devices(), staging="small")
    if not just_in_time:
        offloaded = sum(placement.block.size_bytes for placement in plan.streamed)
        rate = bench.rate(shape) * TOKENS / SIZES.tokens  # a plan is for the real number of tokens
        profile = bench.profile(rate, bench.bytes_per_second(shape, link, offloaded))
        plan = with_least_staging(plan, profile, GB)
    distribution = bench.distributed(model, plan)

    def step() -> None:
        model(x)
        if just_in_time:
            distribution.weights_changed()  # nothing is copied ahead of a step

    return Schedule(shape, model, step, plan)


def over_limit(bench: Bench, split: Schedule, link: str) -> tuple[float, float]:
    """A step in steady state, and the first one, over the limit."""
    bytes_per_second = bench.bytes_per_second(split.shape, link, split.offloaded_bytes)
    limit = max(STEP_SECONDS[split.shape], split.offloaded_bytes / bytes_per_second)
    took = bench.timed(split.step, bench.profile(bench.rate(split.shape), bytes_per_second))
    return took.seconds / limit, took.first_seconds / limit


def kept_gib(split: Schedule) -> float:
    """The staging buffer, in the bytes of the real model."""
    small = sum(split.plan.bytes_by_device.values())
    return split.plan.staging_bytes * WEIGHT_GB[split.shape] * 1e9 / small / 2**30


def streaming(bench: Bench, shape: str, fraction: float, links: Sequence[str]) -> Iterator[Record]:
    contiguous = schedule(bench, shape, fraction, Strategy.CONTIGUOUS, BALANCED, just_in_time=True)
    for link in links:
        ours = schedule(bench, shape, fraction, Strategy.INTERLEAVE, link)
        name = f"{shape}, {fraction:.0%} over {link}"
        steady, first = over_limit(bench, ours, link)
        others, _ = over_limit(bench, contiguous, link)
        bound = LIMITS.get(shape, {}).get(fraction, 1.03) if link == BALANCED else None
        yield Record(f"{name}: ours", steady, "limits", bound=bound)
        yield Record(f"{name}: kept for streaming", kept_gib(ours), "GiB", bound=MOST_GIB.get(shape))
        yield Record(f"{name}: first step", first, "limits", bound=FIRST_STEP if link == BALANCED else None)
        yield Record(f"{name}: contiguous, just in time", others, "limits")
        if link == BALANCED and fraction <= 0.6:
            yield Record(f"{name}: ours over contiguous (at most 1/1.3)", steady / others, "times", bound=1 / 1.3)


@dataclass(frozen=True)
class Relayed:
    """The uniform model on two cards, of which the second has a share as large as it is fast."""

    model: nn.Module
    distribution: Distribution
    x: torch.Tensor
    profile: HardwareProfile

    def halves(self, *, in_turn: bool = False) -> object:
        micro_batches = self.distribution.micro_batches
        assert micro_batches is not None
        return micro_batches.run([partial(self.model, self.x)] * 2, kind="half", in_turn=in_turn)


def relayed(bench: Bench, other_card: float) -> Relayed:
    x = shaped_input(SIZES).to("npu:0")
    # A hop takes the small model's activations as long as the real ones.
    bytes_per_second = LINKS[HOP_LINK] * 1e9 / ACTIVATION_BYTES * x.nbytes
    share = other_card / (1 + other_card)
    model = shaped_model("uniform", SIZES)
    shares = tuple(Share(card, Fraction(part)) for card, part in (("npu:0", 1 - share), ("npu:1", share)))
    request = AllocationRequest("npu:0", AllocationMode.RATIO, shares, strategy=Strategy.RELAY)
    inventory = inventory_of_module(model)
    distribution = bench.distributed(model, plan_allocation(inventory, request, bench.registry.devices()))
    return Relayed(model, distribution, x, bench.profile(bench.rate("uniform"), bytes_per_second, other_card))


@torch.inference_mode()
def relaying(bench: Bench) -> Iterator[Record]:
    """Two halves of a step on two cards, over both halves on one card that holds the whole model."""
    resident = STEP_SECONDS["uniform"]
    for name, other in (("two equal cards", 1.0), ("a second card a third as fast", OTHER_CARD)):
        split = relayed(bench, other)
        both = bench.timed(split.halves, split.profile)
        one = bench.timed(partial(split.model, split.x), split.profile)
        bound = 1 / 1.7 if other == 1 else None
        yield Record(f"micro-batches, {name}: both halves over resident", both.seconds / (2 * resident), "times", bound)
        yield Record(f"relay, {name}: one pass over resident", one.seconds / resident, "times")
        split.distribution.release()


@torch.inference_mode()
def issuing(bench: Bench) -> Iterator[Record]:
    """The same on two equal cards where the host takes its time to issue, and waits for the cards once a step."""
    whole = shaped_model("uniform", SIZES).to("npu:0")
    split = relayed(bench, 1.0)
    alone = partial(whole, split.x)
    launches = bench.timed(alone, HardwareProfile({}, {}), launch_seconds=1.0).seconds
    for share in ISSUE_SHARES:
        launch_seconds = share * STEP_SECONDS["uniform"] / launches
        resident = 2 * bench.timed(alone, split.profile, launch_seconds=launch_seconds).seconds
        name = f"micro-batches, issuing takes {share:.2f} of a half"
        for order, in_turn in (("chunks alternate", False), ("one half after the other", True)):
            both = bench.timed(partial(split.halves, in_turn=in_turn), split.profile, launch_seconds=launch_seconds)
            bound = 1 / 1.6 if share <= 0.25 and not in_turn else None
            yield Record(f"{name}, {order}: both halves over resident", both.seconds / resident, "times", bound)
    split.distribution.release()


def write_trace(bench: Bench, folder: Path) -> None:
    """A step of Flux with half of it offloaded, as Chrome trace JSON and as a picture."""
    split = schedule(bench, "flux", 0.5, Strategy.INTERLEAVE, BALANCED)
    with labelled_blocks(bench, split):
        over_limit(bench, split, BALANCED)
    seconds = STEP_SECONDS["flux"]
    spans = [span for span in bench.machine.clock.trace if 2 * seconds < span.start_seconds < 3.1 * seconds]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "flux.trace.json").write_text(json.dumps(chrome_trace(spans)))
    (folder / "flux.svg").write_text(trace_picture(spans, "Flux, half of it offloaded, V/B = T: one step"))


@contextmanager
def labelled_blocks(bench: Bench, split: Schedule) -> Iterator[None]:
    """What a block computes bears its number in the trace, with a star where its weights were streamed."""
    labels = ExitStack()
    streamed = {placement.block.name for placement in split.plan.streamed}

    def begin(label: str, module: nn.Module, args: object) -> None:
        labels.enter_context(bench.machine.clock.label(label))

    def end(module: nn.Module, args: object, output: object) -> None:
        labels.close()

    handles = []
    for index, placement in enumerate(split.plan.placements):
        if placement.block.kind is BlockKind.HEAD and placement.block.part_of:
            continue  # read by the block around it
        block = split.model.get_submodule(placement.block.name)
        label = f"{index}*" if placement.block.name in streamed else f"{index}"
        handles += [
            block.register_forward_pre_hook(partial(begin, label)),
            block.register_forward_hook(end, prepend=True),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def measure(quick: bool, trace: Path | None) -> Iterator[Record]:
    bench = Bench()
    links = [BALANCED] if quick else [BALANCED, *LINKS]
    fractions = (0.3, 0.6) if quick else FRACTIONS
    shapes = ("uniform",) if quick else SHAPES
    for shape in shapes:
        for fraction in fractions:
            yield from streaming(bench, shape, fraction, links)
    yield from relaying(bench)
    yield from issuing(bench)
    if trace is not None:
        write_trace(bench, trace)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a list of records instead of a table")
    parser.add_argument("--quick", action="store_true", help="one model, one link, two shares")
    parser.add_argument("--trace", type=Path, help="write a trace and its picture to this folder")
    parser.add_argument("--keep", type=Path, help="write the records, with machine and date, to this file")
    options = parser.parse_args()
    report("Steps in virtual time", list(measure(options.quick, options.trace)), options.json, options.keep)
