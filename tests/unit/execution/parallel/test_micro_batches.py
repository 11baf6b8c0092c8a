"""Two halves of a step on two cards at once: the same numbers, no race, and the time that the law says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

from multigpu.multigpu_core.devices import HardwareProfile, LinkSpeed
from multigpu.multigpu_core.execution import Distribution
from multigpu.multigpu_core.simulation.time.clock import ClockSettings
from multigpu.testing import SimulatedMachine

from ..relay.relayed import COMPUTE, Model, in_turn, relayed, resident

WIDTH = 8
TOKENS = 64
BLOCKS = 16
CARDS = ("npu:0", "npu:1")
FLOPS_PER_SECOND = 1e6
HALF_SECONDS = BLOCKS * 32 * TOKENS * WIDTH**2 / FLOPS_PER_SECOND
HOP_SECONDS = 0.001 * HALF_SECONDS
"""As between two cards without peer access, for an image model."""


class Block(nn.Module):
    """Nothing but products of matrices, in place like many transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, 8 * WIDTH)
        self.down = nn.Linear(8 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x += self.down(torch.tanh(self.up(x)))
        return x


def profile(hop_seconds: float = 0.0, rates: Sequence[float] = (1.0, 1.0)) -> HardwareProfile:
    link = LinkSpeed(float("inf"), float("inf"), hop_seconds / 2)
    return HardwareProfile(
        links={pair: link for card in CARDS for pair in ((card, "cpu"), ("cpu", card))},
        flops_per_second={card: {"float32": FLOPS_PER_SECOND * r} for card, r in zip(CARDS, rates, strict=True)},
    )


@pytest.fixture(autouse=True)
def machine(simulated_machine: SimulatedMachine) -> Iterator[SimulatedMachine]:
    simulated_machine.detect_races = True
    with torch.inference_mode():
        yield simulated_machine
    simulated_machine.detect_races = False
    simulated_machine.clock.stop()


def micro_batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(TOKENS, WIDTH, generator=generator).to(COMPUTE) for _ in range(2)]


def chunked(chunks: int, share: float = 0.5) -> list[str]:
    """So many chunks a card; the donor has that share of each round."""
    per_round = BLOCKS // chunks
    own = per_round - round(share * per_round)
    return (["npu:0"] * own + ["npu:1"] * (per_round - own)) * chunks


def step(distribution: Distribution, model: nn.Module) -> list[Tensor]:
    assert distribution.micro_batches is not None
    a, b = micro_batches()
    return distribution.micro_batches.run([lambda: model(a), lambda: model(b)], kind=a.shape)


def test_what_halves_do_around_the_model_is_done_with_the_compute_device_as_the_current_one(
    machine: SimulatedMachine,
) -> None:
    model = Model(in_turn, [Block() for _ in range(BLOCKS)])
    distribution = relayed(model, chunked(4))
    assert distribution.micro_batches is not None
    current: list[int] = []

    def half() -> Tensor:
        current.append(machine.module.current_device())
        output: Tensor = model(micro_batches()[0])
        return output

    distribution.micro_batches.run([half, half], kind=None)
    assert current == [0, 0] and machine.module.current_device() == 0


def seconds_of(
    machine: SimulatedMachine,
    work: Callable[[], object],
    settings: ClockSettings,
    steps: int = 3,
    *,
    waits: bool = False,
) -> float:
    """Virtual seconds of a step in steady state; with `waits` the host waits for both cards after each step."""

    def now() -> float:
        for card in CARDS:
            machine.module.synchronize(card)
        return machine.clock.now_seconds

    machine.clock.start(settings)
    work()
    begin = now()
    for _ in range(steps):
        work()
        if waits:
            now()
    return (now() - begin) / steps


def one_after_the_other(model: nn.Module) -> list[Tensor]:
    return [model(half) for half in micro_batches()]


def test_both_halves_are_what_one_card_makes_of_them_one_after_the_other() -> None:
    model = Model(in_turn, [Block() for _ in range(BLOCKS)])
    expected = [output.cpu() for output in one_after_the_other(resident(model))]
    distribution = relayed(model, chunked(4))
    for _ in range(3):
        for output, whole in zip(step(distribution, model), expected, strict=True):
            assert torch.equal((output * 1).cpu(), whole)


def alone_and_together(
    machine: SimulatedMachine, places: Sequence[str], speeds: HardwareProfile
) -> tuple[float, float]:
    """Virtual seconds of a step of both halves on one card that holds the whole model, and relayed."""
    model = Model(in_turn, [Block() for _ in range(BLOCKS)])
    model.embed = model.out = nn.Identity()  # heads cost next to nothing in real models
    whole = resident(model)
    alone = seconds_of(machine, lambda: one_after_the_other(whole), ClockSettings(profile()))
    distribution = relayed(model, places)
    return alone, seconds_of(machine, lambda: step(distribution, model), ClockSettings(speeds))


@pytest.mark.parametrize(("chunks", "law"), [(1, 4 / 3), (2, 8 / 5), (4, 16 / 9), (8, 32 / 17)])
def test_two_equal_cards_are_faster_than_one_that_holds_the_whole_model(
    machine: SimulatedMachine, chunks: int, law: float
) -> None:
    alone, together = alone_and_together(machine, chunked(chunks), profile())
    assert alone / together == pytest.approx(law)


def test_it_is_as_fast_when_issuing_takes_a_quarter_of_the_time_and_the_host_waits_once_a_step(
    machine: SimulatedMachine,
) -> None:
    model = Model(in_turn, [Block() for _ in range(BLOCKS)])
    model.embed = model.out = nn.Identity()
    whole, x = resident(model), micro_batches()[0]
    launches = seconds_of(machine, lambda: whole(x), ClockSettings(HardwareProfile({}, {}), launch_seconds=1.0))
    settings = ClockSettings(profile(), launch_seconds=HALF_SECONDS / 4 / launches)
    alone = seconds_of(machine, lambda: one_after_the_other(whole), settings, waits=True)
    distribution = relayed(model, chunked(4))
    step(distribution, model)
    together = seconds_of(machine, lambda: step(distribution, model), settings, waits=True)
    assert alone / together > 1.7


def test_chunks_that_do_not_match_cost_no_more_than_what_they_differ_by(machine: SimulatedMachine) -> None:
    alone, together = alone_and_together(machine, chunked(4, share=0.75), profile())
    busy = 2 * HALF_SECONDS * 0.75
    assert busy < together < busy + HALF_SECONDS / BLOCKS * 2
    assert together < alone


def test_with_hops_four_chunks_a_card_are_still_1_7_times_faster(machine: SimulatedMachine) -> None:
    alone, together = alone_and_together(machine, chunked(4), profile(HOP_SECONDS))
    assert alone == pytest.approx(2 * HALF_SECONDS)
    assert alone / together > 1.7


def test_an_unlike_card_helps_with_as_much_as_it_computes_in_the_same_time(machine: SimulatedMachine) -> None:
    alone, together = alone_and_together(machine, chunked(4, share=0.25), profile(rates=(1, 1 / 3)))
    assert alone / together == pytest.approx(2 * 16 / 27)


def test_one_half_alone_takes_as_long_as_on_one_card(machine: SimulatedMachine) -> None:
    model = Model(in_turn, [Block() for _ in range(BLOCKS)])
    x = micro_batches()[0]
    whole = resident(model)
    alone = seconds_of(machine, lambda: whole(x), ClockSettings(profile()))
    relayed(model, chunked(4))
    assert seconds_of(machine, lambda: model(x), ClockSettings(profile())) == pytest.approx(alone)


def test_a_half_that_raises_leaves_both_cards_usable() -> None:
    model = Model(in_turn, [Block() for _ in range(BLOCKS)])
    x = micro_batches()[0]
    expected = resident(model)(x).cpu()
    distribution = relayed(model, chunked(4))
    step(distribution, model)
    assert distribution.micro_batches is not None

    def broken() -> Tensor:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        distribution.micro_batches.run([lambda: model(x), broken], kind=None)
    distribution.settle()
    assert torch.equal(model(x).cpu(), expected)


def test_it_is_not_used_where_weights_are_streamed_or_only_one_card_computes() -> None:
    model = Model(in_turn, [Block() for _ in range(4)])
    assert relayed(model, ("npu:0", "npu:1", "cpu", "npu:1")).micro_batches is None
    assert relayed(Model(in_turn, [Block() for _ in range(2)]), ("npu:0", "npu:0")).micro_batches is None
