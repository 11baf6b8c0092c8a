"""Plans put what was asked where it was asked, or say why not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from multigpu.multigpu_core.allocation import (
    AllocationMode,
    AllocationPlan,
    AllocationRequest,
    PlanError,
    Strategy,
    plan_allocation,
)
from multigpu.multigpu_core.devices import DeviceError
from multigpu.multigpu_core.strategies.built_in import built_in_strategies

from .planning import GIB, expert, machine, model, planned_again

STAGING = 256
"""The least that is kept for one block on its way: places begin at multiples of it."""
AMPLE = machine({"cpu": 1000, "cuda:0": 1000, "cuda:1": 1000})
DISTRIBUTING = [strategy for strategy in built_in_strategies() if not strategy.replicates]


def order(plan: AllocationPlan) -> str:
    """The devices of the movable blocks in execution order: the last letter of each name."""
    return "".join(placement.device[-1] for placement in plan.placements[1:-1])


def virtual(size: int, *donors: str, compute: str = "cuda:0") -> AllocationRequest:
    return AllocationRequest(compute, AllocationMode.VIRTUAL_VRAM, virtual_vram_bytes=size, donors=donors)


def test_an_ordinary_load_is_all_on_its_device_however_full_that_is() -> None:
    plan = plan_allocation(model(1, 2, 3), AllocationRequest("cuda:0"), machine({"cpu": 1, "cuda:0": 1}))
    assert plan.bytes_by_device == {"cuda:0": 6}
    assert plan.warnings == ()


def test_contiguous_gives_donors_the_beginning_in_turn_and_compute_the_end() -> None:
    request = expert("cuda:0,20%;cuda:1,30%;cpu,50%", AMPLE, strategy=Strategy.CONTIGUOUS)
    assert order(plan_allocation(model(*[10] * 10), request, AMPLE)) == "111uuuuu00"


def test_interleave_puts_an_offloaded_block_between_blocks_that_stay() -> None:
    request = expert("cuda:0,50%;cpu,50%", AMPLE)
    assert order(plan_allocation(model(*[10] * 8), request, AMPLE)) in ("0u0u0u0u", "u0u0u0u0")


def test_interleave_lets_several_donors_take_turns() -> None:
    request = expert("cuda:0,50%;cuda:1,25%;cpu,25%", AMPLE)
    offloaded = order(plan_allocation(model(*[10] * 16), request, AMPLE)).replace("0", "")
    assert offloaded in ("1u1u1u1u", "u1u1u1u1")


def test_bytes_are_given_in_the_order_written_and_the_star_takes_the_rest() -> None:
    plan = plan_allocation(model(*[10] * 10), expert("cuda:0,20b;cuda:1,30b;cpu,*", AMPLE), AMPLE)
    assert plan.bytes_by_device == {"cuda:0": 20, "cuda:1": 30, "cpu": 50}


def test_the_rest_of_a_byte_string_without_a_star_goes_to_cpu() -> None:
    plan = plan_allocation(model(*[10] * 10), expert("cuda:0,20b;cuda:1,30b", AMPLE), AMPLE)
    assert plan.bytes_by_device == {"cuda:0": 20, "cuda:1": 30, "cpu": 50}


def test_an_amount_with_a_star_is_a_least_amount() -> None:
    plan = plan_allocation(model(*[10] * 10), expert("cuda:0,70b;cpu,10b*;cuda:1,30b", AMPLE), AMPLE)
    assert plan.bytes_by_device == {"cuda:0": 70, "cpu": 10, "cuda:1": 20}


def test_percentages_are_normalised() -> None:
    plan = plan_allocation(model(*[10] * 10), expert("cuda:0,8%;cuda:1,8%;cpu,4%", AMPLE), AMPLE)
    assert plan.bytes_by_device == {"cuda:0": 40, "cuda:1": 40, "cpu": 20}


def test_a_star_among_percentages_takes_what_is_missing_to_a_hundred() -> None:
    plan = plan_allocation(model(*[10] * 10), expert("cuda:0,20%;cuda:1,30%;cpu,*", AMPLE), AMPLE)
    assert plan.bytes_by_device == {"cuda:0": 20, "cuda:1": 30, "cpu": 50}


def test_fractions_are_of_a_device_s_whole_memory_not_of_what_is_free() -> None:
    devices = machine({"cpu": 500, "cuda:0": 400}, total={"cpu": 1000, "cuda:0": 800})
    plan = plan_allocation(model(*[10] * 10), expert("cuda:0,0.05;cpu,*", devices), devices)
    assert plan.bytes_by_device == {"cuda:0": 40, "cpu": 60}


@pytest.mark.parametrize("text", ["cuda:1,60%;cpu,40%", "cuda:1,48b;cpu,*", "cuda:1,0.048;cpu,*"])
@pytest.mark.parametrize("strategy", DISTRIBUTING, ids=lambda each: each.name)
def test_a_compute_device_that_is_not_in_the_string_stores_the_heads_alone(text: str, strategy: Strategy) -> None:
    plan = plan_allocation(model(*[8] * 10, head=10), expert(text, AMPLE, strategy=strategy), AMPLE)
    assert plan.bytes_by_device == {"cuda:0": 20, "cuda:1": 48, "cpu": 32}
    assert plan.warnings == ()


def test_a_share_smaller_than_the_heads_gives_way_to_them_with_a_warning() -> None:
    plan = plan_allocation(model(*[10] * 8, head=10), expert("cuda:0,5%;cpu,95%", AMPLE), AMPLE)
    assert plan.bytes_by_device == {"cuda:0": 20, "cpu": 80}
    assert "cuda:0 stores 20 bytes instead of 5 bytes" in plan.warnings[0]


def test_a_device_that_the_model_does_not_reach_is_named() -> None:
    plan = plan_allocation(model(*[10] * 3), expert("cuda:0,20b;cpu,10b;cuda:1,10b", AMPLE), AMPLE)
    assert "too small to give cuda:1" in plan.warnings[0]


def test_a_share_of_less_than_a_block_is_named() -> None:
    plan = plan_allocation(model(*[10] * 3), expert("cuda:0,28b;cuda:1,2b", AMPLE), AMPLE)
    assert plan.bytes_by_device == {"cuda:0": 30}
    assert "cuda:1 stores nothing" in plan.warnings[0]


@pytest.mark.parametrize("strategy", DISTRIBUTING, ids=lambda each: each.name)
def test_a_donor_that_is_too_small_is_refused_with_what_it_needs_and_has(strategy: Strategy) -> None:
    devices = machine({"cpu": 1000, "cuda:0": 1000, "cuda:1": 30})
    with pytest.raises(PlanError) as caught:
        plan_allocation(model(*[10] * 10), expert("cuda:0,50%;cuda:1,50%", devices, strategy=strategy), devices)
    assert (caught.value.device, caught.value.needed_bytes, caught.value.free_bytes) == ("cuda:1", 50, 30)
    assert "auto" in str(caught.value)


def test_what_inference_needs_counts_as_taken() -> None:
    devices = machine({"cpu": 1000, "cuda:0": STAGING + 60})
    request = expert("cuda:0,50%;cpu,50%", devices)
    assert plan_allocation(model(*[10] * 10), request, devices, {"cuda:0": 10}).compute_bytes == 50
    with pytest.raises(PlanError) as caught:
        plan_allocation(model(*[10] * 10), request, devices, {"cuda:0": STAGING + 20})
    error = caught.value
    assert (error.device, error.needed_bytes, error.free_bytes) == ("cuda:0", 50, 40)


def test_a_split_needs_room_for_one_block_on_its_way() -> None:
    devices = machine({"cpu": 1000, "cuda:0": STAGING + 49})
    with pytest.raises(PlanError) as caught:
        plan_allocation(model(*[10] * 10), expert("cuda:0,50%;cpu,50%", devices), devices)
    error = caught.value
    assert (error.device, error.needed_bytes, error.free_bytes) == ("cuda:0", STAGING + 50, STAGING + 49)
    assert "256 bytes of that are reserved for streaming" in str(error)


def test_four_places_are_enough_and_fewer_do_where_memory_is_short() -> None:
    for blocks_free, places in ((6, 4), (5, 4), (4, 3), (3, 2), (2, 1)):
        devices = machine({"cpu": 10_000, "cuda:0": (blocks_free + 4) * STAGING - 5})
        request = expert("cuda:0,50%;cpu,50%", devices)
        assert plan_allocation(model(*[STAGING] * 8), request, devices).staging_bytes == places * STAGING


@pytest.mark.parametrize("text", ["cuda:0,0%;cpu,100%", "auto"])
def test_a_compute_device_too_small_for_the_heads_is_refused(text: str) -> None:
    devices = machine({"cpu": 1000, "cuda:0": 19})
    with pytest.raises(PlanError) as caught:
        plan_allocation(model(10, 10, head=10), expert(text, devices), devices)
    assert (caught.value.device, caught.value.needed_bytes, caught.value.free_bytes) == ("cuda:0", 20, 19)


def test_a_device_that_has_gone_since_is_named_with_those_that_are_there() -> None:
    with pytest.raises(DeviceError, match="cuda:1"):
        plan_allocation(model(10), expert("cuda:1,*", AMPLE), AMPLE[:2])


def test_virtual_vram_moves_that_many_bytes_to_the_donor() -> None:
    plan = plan_allocation(model(*[10] * 10), virtual(40, "cpu"), AMPLE)
    assert plan.bytes_by_device == {"cuda:0": 60, "cpu": 40}


def test_virtual_vram_fills_donors_in_order_and_spills_to_cpu_with_a_warning() -> None:
    devices = machine({"cpu": 1000, "cuda:0": 1000, "cuda:1": 20, "cuda:2": 10})
    plan = plan_allocation(model(*[10] * 10), virtual(50, "cuda:2", "cuda:1"), devices)
    assert plan.bytes_by_device == {"cuda:0": 50, "cuda:1": 20, "cuda:2": 10, "cpu": 20}
    assert plan.warnings == ("cuda:2, cuda:1 cannot store all offloaded weights: 20 bytes go to cpu.",)


def test_virtual_vram_offloads_more_where_the_rest_does_not_fit_the_compute_device() -> None:
    devices = machine({"cpu": 1000, "cuda:0": STAGING + 30})
    plan = plan_allocation(model(*[10] * 10), virtual(40, "cpu"), devices)
    assert plan.bytes_by_device == {"cuda:0": 30, "cpu": 70}
    assert "offloading 30 bytes more" in plan.warnings[0]


def test_virtual_vram_larger_than_the_model_leaves_the_heads() -> None:
    plan = plan_allocation(model(*[10] * 4, head=5), virtual(4 * GIB, "cuda:1"), AMPLE)
    assert plan.bytes_by_device == {"cuda:0": 10, "cuda:1": 40}
    assert plan.warnings == ()


def test_virtual_vram_that_fits_nowhere_is_refused() -> None:
    devices = machine({"cpu": 10, "cuda:0": 10, "cuda:1": 10})
    with pytest.raises(PlanError) as caught:
        plan_allocation(model(*[10] * 10), virtual(90, "cuda:1"), devices)
    assert caught.value.device == "cpu"


@pytest.mark.parametrize("strategy", DISTRIBUTING, ids=lambda each: each.name)
def test_auto_offloads_nothing_that_fits(strategy: Strategy) -> None:
    devices = machine({"cpu": 1000, "cuda:0": 130, "cuda:1": 1000})
    request = expert("auto", devices, strategy=strategy)
    assert plan_allocation(model(*[10] * 10), request, devices, {"cuda:0": 30}).bytes_by_device == {"cuda:0": 100}


@pytest.mark.parametrize("strategy", DISTRIBUTING, ids=lambda each: each.name)
def test_auto_keeps_what_fits_then_fills_other_accelerators_then_cpu(strategy: Strategy) -> None:
    block = STAGING
    devices = machine({"cpu": 10_000, "cuda:0": 7 * block + 20, "cuda:1": 3 * block + 5})
    plan = plan_allocation(model(*[block] * 10), expert("auto", devices, strategy=strategy), devices, {"cuda:0": 20})
    assert plan.bytes_by_device == {"cuda:0": 4 * block, "cuda:1": 3 * block, "cpu": 3 * block}
    assert plan.staging_bytes == 3 * block


def test_auto_keeps_the_heads_even_in_the_memory_for_inference_and_says_so() -> None:
    devices = machine({"cpu": 1000, "cuda:0": STAGING + 100})
    plan = plan_allocation(model(*[10] * 4, head=10), expert("auto", devices), devices, {"cuda:0": STAGING + 90})
    assert plan.bytes_by_device == {"cuda:0": 20, "cpu": 40}
    assert "inference" in plan.warnings[0]


def test_a_model_without_movable_blocks_can_be_planned_again_from_its_string() -> None:
    for inventory in (model(), model(head=10), model(0, 0)):
        plan = plan_allocation(inventory, expert("cuda:0,50%;cpu,50%", AMPLE), AMPLE)
        assert planned_again(plan, inventory, AMPLE).placements == plan.placements


@pytest.mark.parametrize("strategy", DISTRIBUTING, ids=lambda each: each.name)
def test_four_times_the_blocks_over_nine_devices_take_about_four_times_the_work(
    strategy: Strategy, steps_of: Callable[[Callable[[], object]], int]
) -> None:
    devices = machine({"cpu": GIB, **{f"cuda:{i}": GIB for i in range(8)}})
    request = expert(";".join(f"{info.name},1%" for info in devices), devices, strategy=strategy)
    few, many = (
        steps_of(partial(plan_allocation, model(*(1000 + 7919 * i % 4001 for i in range(count))), request, devices))
        for count in (500, 2000)
    )
    assert many < 6 * few
