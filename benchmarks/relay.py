"""Relay and ping-pong on the virtual clock: two cards, each with a part of the model, against one that holds it all.

python benchmarks/relay.py [--json]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from records import Record, main
from shaped_models import Sizes, shaped_input, shaped_model
from torch import Tensor, nn

from multigpu.multigpu_core.allocation import Strategy, inventory_of_module, parse_expert, plan_allocation
from multigpu.multigpu_core.devices import HardwareProfile, LinkSpeed, default_registry
from multigpu.multigpu_core.execution import Distribution, PageLockedMemory
from multigpu.multigpu_core.testing import SimulatedMachine, simulated
from multigpu.multigpu_core.testing.clock import ClockSettings

CARDS = ("npu:0", "npu:1")
SIZES = Sizes(width=64, tokens=72, text_tokens=8)
FLOPS_PER_SECOND = 1e9
HOP_SHARE = 0.001
"""What one hop takes of a step: between two cards without peer access 0.1 to 0.6 % (see the laws in the docs)."""
STEPS = 3


@dataclass(frozen=True)
class RelayTimes:
    """Virtual seconds of a step with two halves, in steady state."""

    resident: float
    """One card that holds the whole model, one half after the other."""
    relayed: float
    """Both cards, one half after the other."""
    ping_pong: float
    """Both cards, both halves at once."""


def relay_times(shape: str, donor_share: float = 0.5, donor_speed: float = 1.0) -> RelayTimes:
    """Steps of a shaped model whose donor stores that share of it and computes that many times as fast."""
    with simulated() as machine, torch.inference_mode():
        machine.configure([2**30] * len(CARDS))
        model = shaped_model(shape, SIZES)
        halves = [shaped_input(SIZES).to(CARDS[0]) for _ in range(2)]
        whole = shaped_model(shape, SIZES).to(CARDS[0])
        resident = _step_seconds(machine, lambda: _in_turn(whole, halves), _settings(donor_speed))
        hop = HOP_SHARE * resident / 2
        distribution = _relay(model, donor_share)
        ping_pong = distribution.ping_pong
        assert ping_pong is not None
        settings = _settings(donor_speed, hop)
        relayed = _step_seconds(machine, lambda: _in_turn(model, halves), settings)
        at_once = _step_seconds(
            machine,
            lambda: ping_pong.run([lambda half=half: model(half) for half in halves], kind=shape),  # type: ignore[misc]
            settings,
        )
        return RelayTimes(resident, relayed, at_once)


def measure() -> Iterator[Record]:
    for shape, share in (("uniform", 0.5), ("flux", 0.46), ("wan", 0.5)):
        equal = relay_times(shape, share)
        yield Record(f"{shape}, two equal cards: relay", equal.relayed / equal.resident, "of resident", 1.02)
        yield Record(f"{shape}, two equal cards: ping-pong", equal.ping_pong / equal.resident, "of resident", 1 / 1.7)
        unlike = relay_times(shape, donor_share=0.2, donor_speed=1 / 3)
        yield Record(f"{shape}, a donor a third as fast: relay", unlike.relayed / unlike.resident, "of resident")
        yield Record(f"{shape}, a donor a third as fast: ping-pong", unlike.ping_pong / unlike.resident, "of resident")


def _relay(model: nn.Module, donor_share: float) -> Distribution:
    registry = default_registry()
    inventory = inventory_of_module(model)
    percent = round(100 * donor_share)
    request = parse_expert(
        f"{CARDS[0]},{100 - percent}%;{CARDS[1]},{percent}%",
        compute_device=CARDS[0],
        known=registry.names(),
        strategy=Strategy.RELAY,
    )
    plan = plan_allocation(inventory, request, registry.devices())
    distribution = Distribution(model, inventory, registry, PageLockedMemory(registry, 0))
    distribution.begin(plan)
    for placement in plan.placements:
        distribution.place(placement.block, placement.device)
    distribution.serve({placement.block.name: placement.device for placement in plan.placements})
    return distribution


def _settings(donor_speed: float, hop_seconds: float = 0.0) -> ClockSettings:
    link = LinkSpeed(math.inf, math.inf, hop_seconds / 2)
    rates = {CARDS[0]: FLOPS_PER_SECOND, CARDS[1]: FLOPS_PER_SECOND * donor_speed}
    return ClockSettings(
        HardwareProfile(
            links={pair: link for card in CARDS for pair in ((card, "cpu"), ("cpu", card))},
            flops_per_second={card: {"float32": rate} for card, rate in rates.items()},
        )
    )


def _in_turn(model: nn.Module, halves: list[Tensor]) -> None:
    for half in halves:
        model(half)


def _step_seconds(machine: SimulatedMachine, step: Callable[[], object], settings: ClockSettings) -> float:
    machine.clock.start(settings)
    step()
    begin = _now(machine)
    for _ in range(STEPS):
        step()
    return (_now(machine) - begin) / STEPS


def _now(machine: SimulatedMachine) -> float:
    for card in CARDS:
        machine.module.synchronize(card)
    return machine.clock.now_seconds


if __name__ == "__main__":
    main("Relay and ping-pong on the virtual clock", measure)
