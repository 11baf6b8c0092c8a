"""Where execution is deferred, a wrong order gives a wrong number, and a right one the numbers of always."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from multigpu.testing import SimulatedMachine

ORDERS = ["late", "early", *range(12)]
SEEDS = range(12)


def pinned(npu: Any, values: list[float]) -> Tensor:
    memory: Tensor = npu.empty_pinned(4 * len(values)).view(torch.float32)
    return memory.copy_(torch.tensor(values))


def some_are_wrong(machine: SimulatedMachine, work: Callable[[Any], Tensor], right: list[float]) -> bool:
    """Whether some order gives other numbers than these."""
    found = []
    for order in SEEDS:
        with machine.deferred(order):
            found.append(work(machine.module).tolist())
    return any(numbers != right for numbers in found)


def all_are_right(machine: SimulatedMachine, work: Callable[[Any], Tensor], right: list[float]) -> bool:
    for order in ORDERS:
        with machine.deferred(order):  # type: ignore[arg-type]
            if work(machine.module).tolist() != right:
                return False
    return True


def copied_on_a_side_stream(npu: Any, *, waits: bool) -> Tensor:
    weight, host = torch.empty(2, device="npu:0"), pinned(npu, [1, 2])
    side = npu.Stream(device="npu:0")
    side.wait_stream(npu.current_stream("npu:0"))
    with npu.stream(side):
        weight.copy_(host, non_blocking=True)
    if waits:
        npu.current_stream("npu:0").wait_stream(side)
    result = (weight * 2).cpu()
    npu.synchronize("npu:0")
    return result


def test_work_that_does_not_wait_for_a_copy_computes_with_poison(simulated_machine: SimulatedMachine) -> None:
    assert some_are_wrong(simulated_machine, lambda npu: copied_on_a_side_stream(npu, waits=False), [2, 4])
    assert all_are_right(simulated_machine, lambda npu: copied_on_a_side_stream(npu, waits=True), [2, 4])
    with simulated_machine.deferred("late"):
        assert copied_on_a_side_stream(simulated_machine.module, waits=False).isnan().all()
    with simulated_machine.deferred("early"):
        assert copied_on_a_side_stream(simulated_machine.module, waits=False).tolist() == [2, 4]


def overwritten(npu: Any, *, waits: bool) -> Tensor:
    staging, host = torch.ones(2, device="npu:0"), pinned(npu, [1, 1])
    npu.synchronize("npu:0")
    result = staging * 2
    side = npu.Stream(device="npu:0")
    if waits:
        side.wait_stream(npu.current_stream("npu:0"))
    with npu.stream(side):
        staging.copy_(host, non_blocking=True)
    npu.synchronize("npu:0")
    return result.cpu()


def test_a_copy_over_what_is_still_read_is_seen_even_if_it_brings_the_same_numbers(
    simulated_machine: SimulatedMachine,
) -> None:
    assert some_are_wrong(simulated_machine, lambda npu: overwritten(npu, waits=False), [2, 2])
    assert all_are_right(simulated_machine, lambda npu: overwritten(npu, waits=True), [2, 2])


def freed_too_early(npu: Any, how: str) -> Tensor:
    memory = torch.ones(2, device="npu:0")
    side = npu.Stream(device="npu:0")
    side.wait_stream(npu.current_stream("npu:0"))
    with npu.stream(side):
        result = memory * 2
    if how == "record_stream":
        memory.record_stream(side)
    del memory
    if how == "wait":
        npu.current_stream("npu:0").wait_stream(side)
    torch.empty(2, device="npu:0")
    npu.synchronize("npu:0")
    return result.cpu()


def test_freed_memory_is_used_again_under_another_stream(simulated_machine: SimulatedMachine) -> None:
    assert some_are_wrong(simulated_machine, lambda npu: freed_too_early(npu, "not at all"), [2, 2])
    for how in ("wait", "record_stream"):
        assert all_are_right(simulated_machine, lambda npu, how=how: freed_too_early(npu, how), [2, 2])  # type: ignore[misc]


def test_memory_is_free_when_its_tensor_is_gone_whatever_is_still_to_run(simulated_machine: SimulatedMachine) -> None:
    with simulated_machine.deferred("late"):
        first = torch.ones(2, device="npu:0")
        second = first * 2
        second.copy_(first + 1)
        assert simulated_machine.devices[0].live_bytes == 16
        del first
        assert simulated_machine.devices[0].live_bytes == 8
        assert second.tolist() == [2, 2]


def unpinned_too_early(npu: Any, *, waits: bool) -> Tensor:
    there, memory = torch.empty(2, device="npu:0"), pinned(npu, [1, 2])
    there.copy_(memory, non_blocking=True)
    if waits:
        npu.current_stream("npu:0").synchronize()
    del memory
    return there.cpu()


def test_a_copy_from_memory_that_was_unpinned_brings_poison(simulated_machine: SimulatedMachine) -> None:
    assert some_are_wrong(simulated_machine, lambda npu: unpinned_too_early(npu, waits=False), [1, 2])
    assert all_are_right(simulated_machine, lambda npu: unpinned_too_early(npu, waits=True), [1, 2])


def written_by_the_host(npu: Any, *, waits: bool) -> Tensor:
    there, memory = torch.empty(2, device="npu:0"), pinned(npu, [1, 2])
    there.copy_(memory, non_blocking=True)
    if waits:
        npu.current_stream("npu:0").synchronize()
    memory.fill_(7)
    return there.cpu()


def test_a_copy_reads_what_the_host_has_written_meanwhile(simulated_machine: SimulatedMachine) -> None:
    assert some_are_wrong(simulated_machine, lambda npu: written_by_the_host(npu, waits=False), [1, 2])
    assert all_are_right(simulated_machine, lambda npu: written_by_the_host(npu, waits=True), [1, 2])


def read_by_the_host(npu: Any, *, waits: bool) -> Tensor:
    memory: Tensor = npu.empty_pinned(8).view(torch.float32)
    memory.copy_(torch.ones(2, device="npu:0"), non_blocking=True)
    done = npu.current_stream("npu:0").record_event()
    if waits:
        done.synchronize()
    result = memory.clone()
    npu.synchronize("npu:0")
    return result


def test_the_host_reads_before_a_copy_has_come(simulated_machine: SimulatedMachine) -> None:
    assert some_are_wrong(simulated_machine, lambda npu: read_by_the_host(npu, waits=False), [1, 1])
    assert all_are_right(simulated_machine, lambda npu: read_by_the_host(npu, waits=True), [1, 1])


def test_an_event_orders_only_what_was_queued_before_it(simulated_machine: SimulatedMachine) -> None:
    def too_early(npu: Any) -> Tensor:
        weight = torch.zeros(2, device="npu:0")
        side, done = npu.Stream(device="npu:0"), npu.Event()
        side.wait_stream(npu.current_stream("npu:0"))
        done.record(side)
        with npu.stream(side):
            weight.add_(1)
        npu.current_stream("npu:0").wait_event(done)
        result = (weight * 2).cpu()
        npu.synchronize("npu:0")
        return result

    assert some_are_wrong(simulated_machine, too_early, [2, 2])


def test_asking_an_event_again_and_again_comes_to_an_end(simulated_machine: SimulatedMachine) -> None:
    with simulated_machine.deferred("late"):
        result = torch.ones(2, device="npu:0") * 2 + 1
        done = simulated_machine.module.current_stream("npu:0").record_event()
        assert not done.query()
        while not done.query():
            pass
        assert result.tolist() == [3, 3]


def test_what_is_left_runs_at_the_end(simulated_machine: SimulatedMachine) -> None:
    with simulated_machine.deferred("late"):
        result = torch.ones(2, device="npu:0") * 2
    assert result.tolist() == [2, 2]


def test_unwritten_memory_is_poison_in_every_type(simulated_machine: SimulatedMachine) -> None:
    with simulated_machine.deferred():
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
            assert torch.empty(3, dtype=dtype, device="npu:0").float().isnan().all()
        assert torch.empty(3, dtype=torch.int32, device="npu:0").tolist() == [-1] * 3
        assert simulated_machine.empty_pinned(4).view(torch.float32).isnan().all()


def test_the_host_can_write_ordinary_memory_at_once(simulated_machine: SimulatedMachine) -> None:
    with simulated_machine.deferred():
        values, number = torch.ones(2), torch.tensor(3.0)
        there = torch.empty(2, device="npu:0")
        there.copy_(values, non_blocking=True)
        result = there * number
        values.zero_()
        number.zero_()
        assert result.tolist() == [3, 3]


class _Layers(nn.Module):
    """Views, in-place work, reductions, indices, attention, random numbers, shapes that follow from values."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.GroupNorm(4, 16)
        self.embedding = nn.Embedding(16, 16)
        self.linear = nn.Linear(16, 16)
        self.requires_grad_(False)

    def forward(self, image: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
        pixels = nn.functional.silu(self.norm(self.convolution(image)), inplace=True).flatten(2).transpose(1, 2)
        pixels = pixels + self.embedding(tokens).mean(1, keepdim=True)
        pixels[:, ::2] *= 0.5
        pixels += torch.randn(pixels.shape, generator=generator, device=generator.device)
        pixels.add_(torch.rand_like(pixels))
        heads = self.linear(pixels).unflatten(-1, (4, 4)).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(heads, heads, heads).softmax(-1)
        values, places = mixed.flatten(1).topk(8)
        first, second = mixed.flatten(1)[mixed.flatten(1) > 0.1][:8].split(4)
        out = torch.empty(0, device=image.device)
        torch.cat((values[0], first, second, mixed[:, 0].sum().reshape(1), places[0] * 0.1), out=out)
        out[out > 1] = 1.0
        return out.cumsum(0)


@pytest.mark.parametrize("inference", [True, False])
def test_layers_give_the_numbers_of_always(simulated_machine: SimulatedMachine, inference: bool) -> None:
    torch.manual_seed(0)
    layers = _Layers()
    image, tokens = torch.randn(2, 3, 4, 4), torch.randint(16, (2, 5))

    def run(device: str) -> Tensor:
        torch.manual_seed(1)
        generator = torch.Generator(device).manual_seed(2)
        with torch.inference_mode(inference):
            here = copy.deepcopy(layers).to(device)
            result = here(image.to(device), tokens.to(device), generator)
            return torch.cat((result.cpu(), torch.rand(1, generator=generator, device=device).cpu()))

    expected = run("npu:0")
    for order in ("late", "early", 1, 2):
        with simulated_machine.deferred(order):  # type: ignore[arg-type]
            assert torch.equal(run("npu:0"), expected)


def test_a_wrong_call_fails_when_it_is_issued(simulated_machine: SimulatedMachine) -> None:
    with simulated_machine.deferred(), pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        torch.ones(2, 3, device="npu:0") @ torch.ones(2, 3, device="npu:0")


def test_what_fails_because_of_its_numbers_fails_when_the_host_waits(simulated_machine: SimulatedMachine) -> None:
    with simulated_machine.deferred():
        table = torch.ones(4, 2, device="npu:0")
        places = torch.tensor([1, 9], device="npu:0")
        rows = nn.functional.embedding(places, table)
        with pytest.raises(IndexError):
            rows.cpu()


def test_two_cards_and_a_copy_between_them(simulated_machine: SimulatedMachine) -> None:
    def there_and_back(npu: Any) -> Tensor:
        here = torch.ones(2, device="npu:0") * 2
        there = here.to("npu:1", non_blocking=True)
        here.zero_()  # the copy comes before
        return (there + 1).to("npu:0", non_blocking=True).cpu()

    assert all_are_right(simulated_machine, there_and_back, [3, 3])
