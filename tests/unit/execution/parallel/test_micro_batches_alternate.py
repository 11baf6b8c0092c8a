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

    def step(self, forwards: Sequence[Callable[[], Tensor]] | None = None, **options: Any) -> list[Tensor]:
        assert self.distribution.micro_batches is not None
        a, b = self.inputs
        both = forwards or [lambda: self.model(a), lambda: self.model(b)]
        return self.distribution.micro_batches.run(both, kind="half", **options)

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
def halves(machine: SimulatedMachine) -> Halves:
    return Halves()


def test_each_chunk_of_the_second_half_is_issued_after_the_same_chunk_of_the_first(halves: Halves) -> None:
    for _ in range(3):
        assert halves.alternate


def test_after_a_half_has_failed_no_more_of_the_other_is_issued(halves: Halves) -> None:
    def fail(x: Tensor) -> None:
        raise ValueError

    def first() -> Tensor:
        try:
            return halves.model(a)
        except ValueError:
            halves.visits.append(("a", BLOCKS))
            raise

    a, b = halves.inputs
    halves.at["a", 1] = fail
    with pytest.raises(ValueError):
        halves.step([first, lambda: halves.model(b)])
    assert halves.visits == [("a", 0), ("b", 0), ("a", 1), ("a", BLOCKS)]


def test_the_first_time_one_half_follows_the_other() -> None:
    halves = Halves()
    assert halves.distribution.micro_batches is not None
    micro_batches, model, (a, b) = halves.distribution.micro_batches, halves.model, halves.inputs
    micro_batches.run([lambda: model(a), lambda: model(b)], kind="another")
    assert halves.visits == [(half, block) for half in "ab" for block in range(BLOCKS)]


def test_what_the_halves_keep_the_first_time_is_there_for_both(halves: Halves) -> None:
    """Around the model, too, where no chunk waits for another."""
    kept: list[Tensor] = []

    def half(x: Tensor) -> Tensor:
        if not kept:
            kept.append(x.new_ones(WIDTH) * 2)
        output: Tensor = halves.model(x * kept[0])
        return output

    assert halves.distribution.micro_batches is not None
    a, b = halves.inputs
    halves.distribution.micro_batches.run([lambda: half(a), lambda: half(b)], kind="another")


def test_halves_wait_for_what_was_queued_before_and_who_comes_after_waits_for_them(halves: Halves) -> None:
    x = halves.inputs[0].clone()
    layer = halves.model.blocks[1].layer
    for _ in range(3):
        x.mul_(1)  # queued on the stream that is current, and the host does not wait
        layer.weight.data.mul_(1)  # likewise, on the other card
        halves.step([lambda: halves.model(x), lambda: halves.model(x)])


def test_what_the_first_half_writes_in_a_chunk_the_second_reads_in_that_chunk(halves: Halves) -> None:
    """The chunks are ordered on their card, not only on the host."""
    table = torch.zeros(WIDTH).to("npu:1")
    halves.at["a", 1] = lambda x: table.add_(1)
    halves.at["b", 1] = lambda x: table * 2
    for _ in range(3):
        halves.assert_right()


def test_the_host_may_wait_inside_of_a_block(halves: Halves) -> None:
    for place in (("a", 1), ("b", 1), ("b", 2)):
        halves.at[place] = lambda x: x.sum().item()
    assert halves.alternate


def test_both_halves_are_in_the_state_of_the_caller(machine: SimulatedMachine, halves: Halves) -> None:
    seen: dict[tuple[str, int], tuple[Any, ...]] = {}

    def look(place: tuple[str, int]) -> Callable[[Tensor], None]:
        def see(x: Tensor) -> None:
            modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
            seen[place] = (*modes, MARK.get(), machine.module.current_device())

        return see

    halves.at = {(half, block): look((half, block)) for half in "ab" for block in range(BLOCKS)}
    token = MARK.set("the caller's")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            halves.step()
    finally:
        MARK.reset(token)
    for block in range(BLOCKS):
        assert seen["a", block] == seen["b", block] == (True, False, True, "the caller's", block % 2)


@pytest.mark.parametrize("kind", [ValueError, Stop, KeyboardInterrupt])
@pytest.mark.parametrize("block", range(BLOCKS))
@pytest.mark.parametrize("half", ["a", "b"])
def test_an_error_anywhere_in_either_half_leaves_everything_as_before(
    machine: SimulatedMachine, halves: Halves, half: str, block: int, kind: type[BaseException]
) -> None:
    hooks = [dict(module._forward_pre_hooks) for module in halves.model.modules()]
    x = halves.inputs[0].clone()
    held = [device.live_bytes for device in machine.devices]

    def fail(_: Tensor) -> None:
        raise kind("as expected")

    halves.at[half, block] = fail
    with pytest.raises(kind, match="as expected"):
        halves.step([lambda: halves.model(x), lambda: halves.model(x)])
    x.add_(1)  # who comes after an error waits for what the halves had queued
    assert machine.module.current_device() == 0
    assert [dict(module._forward_pre_hooks) for module in halves.model.modules()] == hooks
    assert [device.live_bytes for device in machine.devices] == held
    halves.at.clear()
    assert halves.alternate


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
    halves: Halves, scope: Callable[[], AbstractContextManager[Any]]
) -> None:
    with scope():
        halves.step()
    assert halves.visits == [(half, block) for half in "ab" for block in range(BLOCKS)]
    assert halves.alternate


def test_whoever_asks_for_it_has_one_half_follow_the_other(halves: Halves) -> None:
    halves.step(in_turn=True)
    assert halves.visits == [(half, block) for half in "ab" for block in range(BLOCKS)]


def test_compiled_blocks_are_issued_in_turn_as_well(halves: Halves) -> None:
    for block in halves.model.blocks:
        block.layer.compile(backend="eager", fullgraph=True)
    assert halves.alternate
