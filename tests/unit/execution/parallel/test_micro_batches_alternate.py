"""The halves of a step are issued in turn, chunk by chunk: in which order, in which state, and what ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from multigpu.multigpu_core.execution import Distribution
from multigpu.testing import SimulatedMachine

from ..relay.relayed import COMPUTE, WIDTH, Model, in_turn, relayed, resident

DEVICES = ("npu:0", "npu:1") * 2
BLOCKS = len(DEVICES)
MARK: ContextVar[str] = ContextVar("mark", default="none")


class Stop(BaseException):
    """As ComfyUI's interrupt: not an Exception."""


class Block(nn.Module):
    """Calls `call` with its number inside of its forward."""

    def __init__(self, number: int, call: Callable[[int, Tensor], None]) -> None:
        super().__init__()
        self.number = number
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        self.call(self.number, x)
        return x + torch.tanh(self.layer(x))


class Halves:
    """A model on two cards, and what its blocks are to do when a half calls them."""

    def __init__(self) -> None:
        self.visits: list[tuple[str, int]] = []
        self.at: dict[tuple[str, int], Callable[[Tensor], object]] = {}
        self.half: Callable[[], int] = lambda: 0
        call = lambda number, x: self._visit(number, x)  # noqa: E731  a method would be copied with the model
        self.model = Model(in_turn, [Block(number, call) for number in range(BLOCKS)])
        generator = torch.Generator().manual_seed(1)
        self.inputs = [torch.randn(3, WIDTH, generator=generator).to(COMPUTE) for _ in range(2)]
        self.expected = [output.cpu() for output in map(resident(self.model), self.inputs)]
        self.distribution: Distribution = relayed(self.model, DEVICES)
        micro_batches = self.distribution.micro_batches
        assert micro_batches is not None
        self.half = lambda: micro_batches.index
        self.step()
        self.visits.clear()

    def step(self, micro_batches: Sequence[Callable[[], Tensor]] | None = None, **options: Any) -> list[Tensor]:
        assert self.distribution.micro_batches is not None
        a, b = self.inputs
        forwards = micro_batches or [lambda: self.model(a), lambda: self.model(b)]
        return self.distribution.micro_batches.run(forwards, kind="half", **options)

    def assert_right(self) -> None:
        for output, expected in zip(self.step(), self.expected, strict=True):
            assert torch.equal(output.cpu(), expected)

    @property
    def alternate(self) -> bool:
        self.visits.clear()
        self.assert_right()
        assert sorted(self.visits) == [(half, block) for half in "ab" for block in range(BLOCKS)]
        return self.visits == [(half, block) for block in range(BLOCKS) for half in "ab"]

    def _visit(self, number: int, x: Tensor) -> None:
        half = "ab"[self.half()]
        self.visits.append((half, number))
        self.at.get((half, number), lambda x: None)(x)


@pytest.fixture(autouse=True)
def machine(simulated_machine: SimulatedMachine) -> Iterator[SimulatedMachine]:
    simulated_machine.detect_races = True
    before = set(threading.enumerate())
    with torch.inference_mode():
        yield simulated_machine
    assert set(threading.enumerate()) <= before
    simulated_machine.detect_races = False


@pytest.fixture
def micro_batches(machine: SimulatedMachine) -> Halves:
    return Halves()


def test_each_chunk_of_the_second_half_is_issued_after_the_same_chunk_of_the_first(micro_batches: Halves) -> None:
    for _ in range(3):
        assert micro_batches.alternate


def test_after_a_half_has_failed_no_more_of_the_other_is_issued(micro_batches: Halves) -> None:
    def fail(x: Tensor) -> None:
        raise ValueError

    def first() -> Tensor:
        try:
            return micro_batches.model(a)
        except ValueError:
            micro_batches.visits.append(("a", BLOCKS))
            raise

    a, b = micro_batches.inputs
    micro_batches.at["a", 1] = fail
    with pytest.raises(ValueError):
        micro_batches.step([first, lambda: micro_batches.model(b)])
    assert micro_batches.visits == [("a", 0), ("b", 0), ("a", 1), ("a", BLOCKS)]


def test_the_first_time_one_half_follows_the_other() -> None:
    micro_batches = Halves()
    assert micro_batches.distribution.micro_batches is not None
    model, (a, b) = micro_batches.model, micro_batches.inputs
    micro_batches.distribution.micro_batches.run([lambda: model(a), lambda: model(b)], kind="another")
    assert micro_batches.visits == [(half, block) for half in "ab" for block in range(BLOCKS)]


def test_what_the_halves_keep_the_first_time_is_there_for_both(micro_batches: Halves) -> None:
    """Around the model, too, where no chunk waits for another."""
    kept: list[Tensor] = []

    def half(x: Tensor) -> Tensor:
        if not kept:
            kept.append(x.new_ones(WIDTH) * 2)
        output: Tensor = micro_batches.model(x * kept[0])
        return output

    assert micro_batches.distribution.micro_batches is not None
    a, b = micro_batches.inputs
    micro_batches.distribution.micro_batches.run([lambda: half(a), lambda: half(b)], kind="another")


def test_halves_wait_for_what_was_queued_before_and_who_comes_after_waits_for_them(micro_batches: Halves) -> None:
    x = micro_batches.inputs[0].clone()
    layer = micro_batches.model.blocks[1].layer
    for _ in range(3):
        x.mul_(1)  # queued on the stream that is current, and the host does not wait
        layer.weight.data.mul_(1)  # likewise, on the other card
        micro_batches.step([lambda: micro_batches.model(x), lambda: micro_batches.model(x)])


def test_what_the_first_half_writes_in_a_chunk_the_second_reads_in_that_chunk(micro_batches: Halves) -> None:
    """The chunks are ordered on their card, not only on the host."""
    table = torch.zeros(WIDTH).to("npu:1")
    micro_batches.at["a", 1] = lambda x: table.add_(1)
    micro_batches.at["b", 1] = lambda x: table * 2
    for _ in range(3):
        micro_batches.assert_right()


def test_the_host_may_wait_inside_of_a_block(micro_batches: Halves) -> None:
    for place in (("a", 1), ("b", 1), ("b", 2)):
        micro_batches.at[place] = lambda x: x.sum().item()
    assert micro_batches.alternate


def test_both_halves_are_in_the_state_of_the_caller(machine: SimulatedMachine, micro_batches: Halves) -> None:
    seen: dict[tuple[str, int], tuple[Any, ...]] = {}

    def look(place: tuple[str, int]) -> Callable[[Tensor], None]:
        def see(x: Tensor) -> None:
            modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
            seen[place] = (*modes, MARK.get(), machine.module.current_device())

        return see

    micro_batches.at = {(half, block): look((half, block)) for half in "ab" for block in range(BLOCKS)}
    token = MARK.set("the caller's")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            micro_batches.step()
    finally:
        MARK.reset(token)
    for block in range(BLOCKS):
        assert seen["a", block] == seen["b", block] == (True, False, True, "the caller's", block % 2)


@pytest.mark.parametrize("kind", [ValueError, Stop, KeyboardInterrupt])
@pytest.mark.parametrize("block", range(BLOCKS))
@pytest.mark.parametrize("half", ["a", "b"])
def test_an_error_anywhere_in_either_half_leaves_everything_as_before(
    machine: SimulatedMachine, micro_batches: Halves, half: str, block: int, kind: type[BaseException]
) -> None:
    hooks = [dict(module._forward_pre_hooks) for module in micro_batches.model.modules()]
    x = micro_batches.inputs[0].clone()
    held = [device.live_bytes for device in machine.devices]

    def fail(_: Tensor) -> None:
        raise kind("as expected")

    micro_batches.at[half, block] = fail
    with pytest.raises(kind, match="as expected"):
        micro_batches.step([lambda: micro_batches.model(x), lambda: micro_batches.model(x)])
    x.add_(1)  # who comes after an error waits for what the halves had queued
    assert machine.module.current_device() == 0
    assert [dict(module._forward_pre_hooks) for module in micro_batches.model.modules()] == hooks
    assert [device.live_bytes for device in machine.devices] == held
    micro_batches.at.clear()
    assert micro_batches.alternate


def test_a_model_that_keeps_something_of_its_forward_on_itself_is_issued_one_half_after_the_other() -> None:
    class Keeping(Model):
        def forward(self, x: Tensor) -> Tensor:
            self.scale = x.mean()
            output: Tensor = super().forward(x)
            return output * self.scale

    model = Keeping(in_turn, [Block(number, lambda number, x: None) for number in range(BLOCKS)])
    a, b = (torch.full((3, WIDTH), float(fill)).to(COMPUTE) for fill in (1, 2))
    expected = [resident(model)(x).cpu() for x in (a, b)]
    distribution = relayed(model, DEVICES)
    assert distribution.micro_batches is not None
    for _ in range(3):
        for output, whole in zip(
            distribution.micro_batches.run([lambda: model(a), lambda: model(b)], kind=0), expected, strict=True
        ):
            assert torch.equal(output.cpu(), whole)


def test_random_numbers_are_drawn_in_the_order_of_halves_that_follow_each_other(machine: SimulatedMachine) -> None:
    class Noise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + torch.rand_like(x)

    model = Model(in_turn, [Noise() for _ in range(BLOCKS)])
    a, b = (torch.full((3, WIDTH), float(fill)).to(COMPUTE) for fill in (1, 2))
    distribution = relayed(model, DEVICES)
    assert distribution.micro_batches is not None

    def step() -> list[Tensor]:
        machine.module.manual_seed_all(1)
        assert distribution.micro_batches is not None
        return distribution.micro_batches.run([lambda: model(a), lambda: model(b)], kind=0)

    first = [output.cpu() for output in step()]
    assert all(torch.equal(output.cpu(), before) for output, before in zip(step(), first, strict=True))


@pytest.mark.parametrize("scope", [torch.enable_grad, lambda: torch.device("cpu")])
def test_what_cannot_be_taken_along_to_a_thread_lets_one_half_follow_the_other(
    micro_batches: Halves, scope: Callable[[], AbstractContextManager[Any]]
) -> None:
    with scope():
        micro_batches.step()
    assert micro_batches.visits == [(half, block) for half in "ab" for block in range(BLOCKS)]
    assert micro_batches.alternate


def test_whoever_asks_for_it_has_one_half_follow_the_other(micro_batches: Halves) -> None:
    micro_batches.step(in_turn=True)
    assert micro_batches.visits == [(half, block) for half in "ab" for block in range(BLOCKS)]


def test_compiled_blocks_are_issued_in_turn_as_well(micro_batches: Halves) -> None:
    for block in micro_batches.model.blocks:
        block.layer.compile(backend="eager", fullgraph=True)
    assert micro_batches.alternate
