"""Replicas compute what the model computes, at once with it, and follow whatever happens to the model."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from multigpu.multigpu_core.execution import Distribution
from multigpu.testing import SimulatedMachine

from .replicated import BLOCKS, COMPUTE, WIDTH, Model, inputs, replicated, step

PAIR = (("npu:0", 50), ("npu:1", 50))
THREE = (("npu:0", 50), ("npu:1", 30), ("npu:2", 20))
MB = 10**6


class Stop(BaseException):
    """As ComfyUI's interrupt: not an Exception."""


@pytest.fixture(autouse=True)
def machine(simulated_machine: SimulatedMachine) -> Iterator[SimulatedMachine]:
    simulated_machine.configure((100 * MB, 50 * MB, 50 * MB))
    before = set(threading.enumerate())
    simulated_machine.detect_races = True
    with torch.inference_mode():
        yield simulated_machine
    simulated_machine.detect_races = False
    assert set(threading.enumerate()) <= before


def expected(given: list[Tensor]) -> list[Tensor]:
    model = Model().to(COMPUTE)
    return [model(x).cpu() for x in given]


def assert_equal(results: list[Tensor], given: list[Tensor]) -> None:
    for result, wanted in zip(results, expected(given), strict=True):
        assert str(result.device) == COMPUTE
        assert torch.equal(result.cpu(), wanted)


@pytest.mark.parametrize("shares", [PAIR, THREE], ids=["two devices", "three devices"])
@pytest.mark.parametrize("offloaded", [(), (1, 3), (0, 1, 2, 3)], ids=["resident", "half streamed", "all streamed"])
@pytest.mark.parametrize("order", ["late", "early", 1, 2])
def test_each_device_computes_its_own_part_and_all_get_what_one_device_computes(
    machine: SimulatedMachine, shares: tuple[tuple[str, int], ...], offloaded: tuple[int, ...], order: str | int
) -> None:
    given = inputs(len(shares))
    model = Model()
    distribution = replicated(model, shares, offloaded)
    with machine.deferred(order):  # type: ignore[arg-type]
        for number in range(3):
            model.calls.made.clear()
            assert_equal(step(distribution, given), given)
            devices = {device for device, _ in model.calls.made}
            assert devices == ({COMPUTE} if number == 0 else {name for name, _ in shares}), "alone the first time"
    distribution.release()


def test_the_devices_are_given_their_blocks_in_turn() -> None:
    model = Model()
    distribution = replicated(model, PAIR)
    given = inputs(2)
    step(distribution, given)
    model.calls.made.clear()
    step(distribution, given)
    assert model.calls.made == [(device, number) for number in range(BLOCKS) for device in ("npu:0", "npu:1")]


def test_what_is_streamed_lies_in_host_memory_once_and_the_rest_on_each_device(machine: SimulatedMachine) -> None:
    model = Model()
    before = [device.live_bytes for device in machine.devices]
    distribution = replicated(model, THREE, (1, 3))
    sizes = distribution.bytes_by_device()
    buffers = BLOCKS * WIDTH * 4
    assert sizes["npu:1"] == sizes["npu:2"] == sizes["npu:0"] + buffers
    assert sizes["cpu"] == 2 * distribution.inventory.blocks[1].size_bytes
    held = [device.live_bytes - earlier for device, earlier in zip(machine.devices, before, strict=True)]
    assert held[1] == held[2] >= sizes["npu:1"]
    distribution.release()
    assert [device.live_bytes for device in machine.devices][1:] == before[1:]


def test_moved_and_changed_weights_reach_every_device(machine: SimulatedMachine) -> None:
    model = Model()
    distribution = replicated(model, PAIR)
    given = inputs(2)
    step(distribution, given)
    before = machine.devices[1].live_bytes
    assert distribution.demote(1, "cpu") > 0
    assert machine.devices[1].live_bytes < before + distribution.staging_bytes
    assert_equal(step(distribution, given), given)
    assert distribution.replicas is not None
    assert distribution.replicas.are_like_the_model()
    model.embed.weight.mul_(2)
    distribution.weights_changed()
    assert not distribution.replicas.are_like_the_model()


def test_what_somebody_exchanges_in_the_model_is_seen() -> None:
    model = Model()
    distribution = replicated(model, PAIR, (1,))
    replicas = distribution.replicas
    assert replicas is not None
    assert replicas.are_like_the_model()
    offloaded = model.blocks[1].layer
    before = offloaded.weight
    offloaded.weight = nn.Parameter(torch.zeros_like(before), requires_grad=False)
    assert not replicas.are_like_the_model()
    offloaded.weight = before
    assert replicas.are_like_the_model()
    model.blocks[0].number = 7
    assert not replicas.are_like_the_model()


def test_replicas_are_made_like_a_changed_model_when_it_is_served_again() -> None:
    model = Model()
    distribution = replicated(model, PAIR)
    given = inputs(2)
    step(distribution, given)
    model.in_order = list(model.blocks)[:2]
    model.out.weight = nn.Parameter(model.out.weight * 2, requires_grad=False)
    distribution.serve({block.name: COMPUTE for block in distribution.inventory.blocks})
    assert distribution.replicas is not None
    assert distribution.replicas.are_like_the_model()
    same = [model(x).cpu() for x in given]
    assert all(
        torch.equal(result.cpu(), wanted) for result, wanted in zip(step(distribution, given), same, strict=True)
    )


@pytest.mark.parametrize("kind", [ValueError, Stop])
@pytest.mark.parametrize("device", ["npu:0", "npu:1", "npu:2"])
def test_an_error_on_one_device_ends_the_work_of_all_and_the_next_step_is_right(
    machine: SimulatedMachine, device: str, kind: type[BaseException]
) -> None:
    def fail() -> None:
        raise kind("as expected")

    model = Model()
    distribution = replicated(model, THREE, (1, 3))
    given = inputs(3)
    step(distribution, given)
    step(distribution, given)
    held = [each.live_bytes for each in machine.devices]
    model.calls.at[device, 2] = fail
    model.calls.made.clear()
    with pytest.raises(kind, match="as expected"):
        step(distribution, given)
    assert all(number <= 2 for _, number in model.calls.made)
    model.calls.at.clear()
    distribution.settle()
    assert distribution.replicas is not None
    if kind is ValueError:
        assert distribution.replicas.failed_on == device
    assert [each.live_bytes for each in machine.devices] == held
    assert_equal(step(distribution, given), given)


def test_a_model_that_keeps_something_from_call_to_call_computes_all_itself() -> None:
    model = Model()
    distribution = replicated(model, PAIR)
    model.calls.at[COMPUTE, 0] = lambda: setattr(model, "seen", len(model.calls.made))
    given = inputs(2)
    for _ in range(3):
        model.calls.made.clear()
        assert_equal(step(distribution, given), given)
        assert {device for device, _ in model.calls.made} == {COMPUTE}


def test_in_a_state_that_belongs_to_one_thread_the_devices_work_one_after_the_other() -> None:
    model = Model()
    distribution = replicated(model, PAIR)
    given = inputs(2)
    with torch.inference_mode(False), torch.enable_grad():
        step(distribution, given)
        model.calls.made.clear()
        assert_equal([each.detach() for each in step(distribution, given)], given)
    assert model.calls.made == [(device, number) for device in ("npu:0", "npu:1") for number in range(BLOCKS)]


def test_without_replicas_the_compute_device_goes_on_alone(machine: SimulatedMachine) -> None:
    model = Model()
    distribution: Distribution = replicated(model, PAIR, (1,))
    before = copy.copy(distribution.bytes_by_device())
    distribution.compute_alone()
    assert distribution.replicas is None
    assert distribution.is_served
    assert "npu:1" in before and "npu:1" not in distribution.bytes_by_device()
    assert not machine.devices[1].live_bytes
    x = inputs(1)[0]
    assert torch.equal(model(x).cpu(), expected([x])[0])
