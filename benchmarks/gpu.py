"""Streaming on a real card: one random-weight Flux-shaped model, resident, split by us, and split in one piece.

python benchmarks/gpu.py [--device cuda:0] [--fp8] [--fractions 0 0.5 1] [--minutes N] [--tiny] [--json] [--keep FILE]

Controls first, in the same run: T, the resident model's step, and B, the link's pinned bytes a second. Then, over
the limit max(T, V/B), our step for each offloaded share; with everything offloaded the steps of those peers that are
installed; and for each share the step where one contiguous part is fetched just in time. Peak memory of the card is
beside every time. Medians of events, after warm-ups.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from gpu_peers import Prepare, peers
from records import Record, report
from rich.console import Console
from shaped_models import Sizes, shaped_input, shaped_model
from time_limit import TimeLimit
from torch import nn

from multigpu.multigpu_core.allocation import (
    AllocationMode,
    AllocationPlan,
    AllocationRequest,
    BlockKind,
    Strategy,
    plan_allocation,
    predict_step,
)
from multigpu.multigpu_core.allocation.inventory.of_module import inventory_of_module
from multigpu.multigpu_core.devices import DeviceRegistry, HardwareProfile, LinkSpeed, default_registry
from multigpu.multigpu_core.execution import Distribution, PinnedMemory

FULL = Sizes(width=3072, tokens=4608, text_tokens=512, dtype=torch.bfloat16)
TINY = Sizes(width=64, tokens=32, text_tokens=8, dtype=torch.float32)
WARM_UPS = 3
STEPS = 20
PEERS_STEPS = 5
"""Some peers take ten times as long."""
COPY_BYTES = 512 * 1024**2


@dataclass(frozen=True)
class Bench:
    """The card and the model's sizes."""

    registry: DeviceRegistry
    device: str
    sizes: Sizes
    steps: int

    @property
    def torch_device(self) -> torch.device:
        return self.registry.torch_device(self.device)

    def seconds(self, work: Callable[[], object], most_steps: int = STEPS) -> float:
        """The median step."""
        for _ in range(WARM_UPS):
            work()
        streams = self.registry.streams(self.device)
        assert streams is not None, "this benchmark is of devices with streams"
        stream = streams.current_stream(self.torch_device)
        marks = [streams.Event(enable_timing=True) for _ in range(min(self.steps, most_steps) + 1)]
        marks[0].record(stream)
        for mark in marks[1:]:
            work()
            mark.record(stream)
        self.registry.synchronize(self.device)
        took = [a.elapsed_time(b) / 1000 for a, b in pairwise(marks)]
        return statistics.median(took)

    def peak_bytes(self) -> float:
        module = getattr(torch, self.torch_device.type)
        peak = float(module.max_memory_allocated(self.torch_device))
        module.reset_peak_memory_stats(self.torch_device)
        return peak

    def model(self) -> nn.Module:
        """The same weights each time, in host memory; they are made on the card, where that is quick."""
        place = self.device if self.torch_device.type == "cuda" else "cpu"
        return shaped_model("flux", replace(self.sizes, device=place)).to("cpu")

    def link_bytes_per_second(self) -> float:
        size = min(COPY_BYTES, self.registry.free_bytes(self.device) // 8)
        there = torch.empty(size, dtype=torch.uint8, device=self.torch_device)
        here = self.registry.empty_pinned(size, self.device)
        return size / max(self.seconds(lambda: there.copy_(here, non_blocking=True)), 1e-9)


class Ours:
    """One model in our hands, split anew for each arm: what stays where it is need not be moved."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._devices = bench.registry.devices()  # while they are empty
        self._model = bench.model()
        self.inventory = inventory_of_module(self._model)
        locked = PinnedMemory(bench.registry, 2 * self.inventory.total_bytes)
        self.distribution = Distribution(self._model, self.inventory, bench.registry, locked)

    def split(self, fraction: float, strategy: Strategy) -> AllocationPlan:
        """That share of the blocks' bytes to host memory; one piece is fetched just in time, into two places."""
        movable = sum(block.size_bytes for block in self.inventory.blocks if block.kind is not BlockKind.HEAD)
        request = AllocationRequest(
            self._bench.device,
            AllocationMode.VIRTUAL_VRAM,
            virtual_vram_bytes=int(fraction * movable),
            donors=("cpu",),
            strategy=strategy,
        )
        plan = plan_allocation(self.inventory, request, self._devices)
        if strategy is Strategy.CONTIGUOUS:
            plan = replace(plan, staging_bytes=plan.staging_bytes * 2 // 3)
        self.distribution.begin(plan)
        # What leaves the card first: it may not hold both splits.
        for placement in sorted(plan.placements, key=lambda placement: placement.device == self._bench.device):
            self.distribution.place(placement.block, placement.device)
        self.distribution.serve({placement.block.name: placement.device for placement in plan.placements})
        return plan

    def step(self, x: torch.Tensor, strategy: Strategy) -> torch.Tensor:
        output: torch.Tensor = self._model(x)
        if strategy is Strategy.CONTIGUOUS:
            self.distribution.weights_changed()  # so that nothing is copied ahead
        return output


def measure(bench: Bench, fractions: Sequence[float], time_limit: TimeLimit) -> Iterator[Record]:
    x = shaped_input(bench.sizes).to(bench.torch_device)
    with torch.inference_mode():
        resident = bench.model().to(bench.torch_device)
        expected = resident(x).cpu()
        bench.peak_bytes()
        seconds = bench.seconds(partial(resident, x))
        yield Record("T, all resident", seconds, "s")
        yield Record("T, peak memory", bench.peak_bytes(), "bytes")
        work = sum(block.work for block in inventory_of_module(resident).blocks)
        del resident
        link = bench.link_bytes_per_second()
        yield Record("B, pinned", link, "bytes/s")
        rate = {str(bench.sizes.dtype).removeprefix("torch."): 2 * work * bench.sizes.tokens / max(seconds, 1e-9)}
        controls = Controls(
            x, expected, seconds, HardwareProfile({("cpu", bench.device): LinkSpeed(link, link)}, {bench.device: rate})
        )
        yield from _arms(bench, controls, Strategy.INTERLEAVE, fractions, time_limit)
        for name, prepare in peers():
            if not time_limit.is_over(name):
                yield from _peer(bench, controls, name, prepare)
        yield from _arms(bench, controls, Strategy.CONTIGUOUS, [each for each in fractions if each], time_limit)


@dataclass(frozen=True)
class Controls:
    """What every arm is compared with."""

    x: torch.Tensor
    expected: torch.Tensor
    resident_seconds: float
    profile: HardwareProfile

    def transfer_seconds(self, bench: Bench, size_bytes: int) -> float:
        return size_bytes / self.profile.links["cpu", bench.device].bytes_per_second


def _peer(bench: Bench, controls: Controls, name: str, prepare: Prepare) -> Iterator[Record]:
    """A peer with all blocks in host memory, over the same limit as ours; one that fails says why, and costs itself."""
    model = bench.model()
    size = sum(weight.nbytes for weight in model.state_dict().values())
    try:
        prepare(model, bench.torch_device)
        bench.peak_bytes()
        took = bench.seconds(partial(model, controls.x), PEERS_STEPS)
    except Exception as error:
        Console(stderr=True).print(f"{name}: {error!r}", style="yellow", markup=False)
        return
    limit = max(controls.resident_seconds, controls.transfer_seconds(bench, size), 1e-9)
    yield Record(f"100% offloaded, {name}: step over the limit", took / limit, "limits")
    yield Record(f"100% offloaded, {name}: peak memory", bench.peak_bytes(), "bytes")


def _arms(
    bench: Bench, controls: Controls, strategy: Strategy, fractions: Sequence[float], time_limit: TimeLimit
) -> Iterator[Record]:
    what = "ours" if strategy is Strategy.INTERLEAVE else "one piece, just in time"
    ours = None
    for fraction in fractions:
        name = f"{fraction:.0%} offloaded, {what}"
        if not time_limit.is_over(name):
            ours = ours or Ours(bench)
            yield from _arm(bench, controls, ours, fraction, strategy, name)
    if ours is not None:
        ours.distribution.release()


def _arm(
    bench: Bench, controls: Controls, ours: Ours, fraction: float, strategy: Strategy, name: str
) -> Iterator[Record]:
    plan = ours.split(fraction, strategy)
    step = partial(ours.step, controls.x, strategy)
    differs = float(not torch.equal(step().cpu(), controls.expected))
    yield Record(f"{name}: outputs that differ (must be 0)", differs, "")
    bench.peak_bytes()
    took = bench.seconds(step)
    transfer = controls.transfer_seconds(bench, sum(placement.block.size_bytes for placement in plan.streamed))
    limit = max(controls.resident_seconds, transfer, 1e-9)
    bound = 1.05 if transfer <= controls.resident_seconds else 1.10
    if not fraction:
        bound = 1.01
    is_ours = strategy is Strategy.INTERLEAVE
    yield Record(f"{name}: step over the limit", took / limit, "limits", bound if is_ours else None)
    yield Record(f"{name}: peak memory", bench.peak_bytes(), "bytes")
    if is_ours:
        predicted = predict_step(plan, controls.profile, bench.sizes.tokens).step_seconds
        yield Record(f"{name}: prediction off by", abs(predicted / max(took, 1e-9) - 1), "of the step", bound=0.1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--fp8", action="store_true", help="weights of eight bits, which are cast when they compute")
    parser.add_argument(
        "--fractions", type=float, nargs="+", default=[0.0, 0.25, 0.5, 0.75, 1.0], help="shares in host memory"
    )
    parser.add_argument("--minutes", type=float, help="begin nothing more after so many minutes")
    parser.add_argument("--tiny", action="store_true", help="a small model and few steps: to see that it runs")
    parser.add_argument("--simulate", action="store_true", help="on a simulated accelerator, npu:0")
    parser.add_argument("--json", action="store_true", help="print a list of records instead of a table")
    parser.add_argument("--keep", type=Path, help="write the records, with machine and date, to this file")
    options = parser.parse_args()
    time_limit = TimeLimit(options.minutes)
    if options.simulate:
        from multigpu.testing import GB, simulated

        scope, device = simulated((4 * GB,)), "npu:0"
    else:
        scope, device = nullcontext(), options.device
    with scope:
        sizes, steps = (TINY, 2) if options.tiny else (FULL, STEPS)
        if options.fp8:
            sizes = replace(sizes, dtype=torch.float8_e4m3fn)
        records = list(measure(Bench(default_registry(), device, sizes, steps), options.fractions, time_limit))
    report("Streaming on a card", records, options.json, options.keep)
