"""Predict how long a step of a plan takes, by working out the streamer's schedule in advance.

Blocks compute one after the other. A piece of a streamed block is copied when the source's last copy is done and when
the last block that used its place in the staging ring has computed; the block computes when all of it is there. At the
end of a step the first copies of the next are under way, so the figure is that of a step in steady state.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from multigpu.multigpu_core.devices import HardwareProfile, LinkSpeed
from multigpu.multigpu_core.devices.speeds.profile import PUBLISHED_SPEEDS

from .plan import AllocationPlan, Placement
from .staging_bytes import staged_bytes
from .staging_ring import Segment, staging_ring

TOKENS = 4608
"""Of an image of 1024 x 1024 in Flux, text included: what is assumed where nobody says. Videos have many more."""

_ACTIVATION_BYTES_A_TOKEN = 2 * 3072
"""Of what a relay sends from card to card: a token's numbers in two bytes each."""

_ASSUMED_DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class StepPrediction:
    """One step in steady state, in seconds.

    `compute_seconds` is what all blocks compute, wherever they do; `transfer_seconds` what the copies from each source
    take. `limit_seconds` is the least that any schedule could take.
    """

    step_seconds: float
    compute_seconds: float
    transfer_seconds: Mapping[str, float]
    limit_seconds: float
    assumes: str = ""
    """The machine that it is for, where its speeds are published ones and not the user's own."""

    @property
    def bound_by(self) -> str:
        """The source whose copies are the bound, or ``compute``."""
        slowest = max(self.transfer_seconds, key=lambda name: self.transfer_seconds[name], default="")
        if slowest and self.transfer_seconds[slowest] > self.compute_seconds:
            return slowest
        return "compute"


def predict_step(plan: AllocationPlan, profile: HardwareProfile, tokens: int = TOKENS) -> StepPrediction:
    """The prediction for a pass of so many tokens through the model."""
    compute = plan.compute_device
    links = {device: link_to(profile, device, compute) for device in plan.bytes_by_device if device != compute}
    streamed = [placement for placement in plan.streamed if placement.block.size_bytes]
    ring = staging_ring([staged_bytes(placement.block) for placement in streamed], plan.staging_bytes)
    seconds = [_compute_seconds(placement, profile, compute, tokens) for placement in plan.placements]
    transfers: dict[str, float] = {}
    for placement in streamed:
        whole = _transfer_seconds(links[placement.device], placement.block.size_bytes)
        transfers[placement.device] = transfers.get(placement.device, 0.0) + whole
    copies = [
        _segment_seconds(links[placement.device], placement.block.size_bytes, segments)
        for placement, segments in zip(itertools.cycle(streamed), ring.segments, strict=False)
    ]
    hop_seconds = _hop_seconds(plan, links, tokens)
    ends = _Schedule(plan, seconds, copies, hop_seconds).ends(2 * ring.laps)
    step_seconds = (ends[-1] - ends[-1 - ring.laps]) / ring.laps
    limit = max([sum(seconds), *transfers.values()])
    assumes = "" if profile.is_measured else PUBLISHED_SPEEDS
    return StepPrediction(step_seconds, sum(seconds), transfers, limit, assumes)


def link_to(profile: HardwareProfile, source: str, compute: str) -> LinkSpeed:
    """The way from a source to the compute device: through the host where no direct one is known.

    Raises:
        KeyError: the profile knows neither.
    """
    known = profile.links.get((source, compute))
    if known is not None:
        return known
    first, second = profile.links[source, "cpu"], profile.links["cpu", compute]
    rate = min(first.bytes_per_second, second.bytes_per_second)
    return LinkSpeed(rate, rate, first.latency_seconds + second.latency_seconds)


@dataclass(frozen=True)
class _Schedule:
    """All that the recurrence needs, by block and by turn."""

    plan: AllocationPlan
    compute_seconds: list[float]
    copies: list[tuple[tuple[int, float], ...]]
    """For each turn of the staging ring its pieces: how many turns before the last reader was, and the copy's time."""
    hop_seconds: list[float]

    def ends(self, steps: int) -> list[float]:
        """When each step ends, from zero, where the first begins with nothing staged."""
        now = 0.0
        ends = [0.0]
        computed: list[float] = []
        channel_free: dict[str, float] = {}
        turns = len(self.copies)
        for _ in range(steps):
            for index, placement in enumerate(self.plan.placements):
                now += self.hop_seconds[index]
                if self._is_streamed(placement):
                    turn = len(computed)
                    copied = channel_free.get(placement.device, 0.0)
                    for distance, copy_seconds in self.copies[turn % turns]:
                        reader = turn - distance
                        copied = max(copied, computed[reader] if reader >= 0 else 0.0) + copy_seconds
                    channel_free[placement.device] = copied
                    now = max(now, copied) + self.compute_seconds[index]
                    computed.append(now)
                else:
                    now += self.compute_seconds[index]
            ends.append(now)
        return ends

    def _is_streamed(self, placement: Placement) -> bool:
        is_away = placement.device != self.plan.compute_device and not placement.relayed
        return is_away and placement.block.size_bytes > 0


def _compute_seconds(placement: Placement, profile: HardwareProfile, compute: str, tokens: int) -> float:
    rates = profile.flops_per_second.get(placement.device if placement.relayed else compute, {})
    names = (placement.block.dtype, *_ASSUMED_DTYPES)
    rate = next((rates[name] for name in names if name in rates), max(rates.values(), default=0.0))
    return 2 * placement.block.work * tokens / rate if rate else 0.0


def _transfer_seconds(link: LinkSpeed, size_bytes: float) -> float:
    return link.latency_seconds + size_bytes / link.bytes_per_second


def _segment_seconds(link: LinkSpeed, size_bytes: int, segments: Sequence[Segment]) -> tuple[tuple[int, float], ...]:
    staged = sum(segment.end - segment.begin for segment in segments)
    return tuple(
        (segment.distance, _transfer_seconds(link, size_bytes * (segment.end - segment.begin) / staged))
        for segment in segments
    )


def _hop_seconds(plan: AllocationPlan, links: Mapping[str, LinkSpeed], tokens: int) -> list[float]:
    """For each block, what it takes to bring the activations to where it computes."""
    where = plan.compute_device
    hop_seconds = []
    for placement in plan.placements:
        computes_on = placement.device if placement.relayed else plan.compute_device
        if computes_on == where:
            hop_seconds.append(0.0)
        else:
            other = computes_on if where == plan.compute_device else where
            hop_seconds.append(_transfer_seconds(links[other], tokens * _ACTIVATION_BYTES_A_TOKEN))
        where = computes_on
    return hop_seconds
