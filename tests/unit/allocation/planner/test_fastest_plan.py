"""`auto` with a hardware profile: as fast as can be, and honest about slow donors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from multigpu.multigpu_core.allocation import (
    AllocationPlan,
    BlockKind,
    Inventory,
    Placement,
    PlanError,
    Strategy,
    plan_with_profile,
    predict_step,
)
from multigpu.multigpu_core.allocation.planner.staging_bytes import staged_bytes
from multigpu.multigpu_core.devices import DeviceInfo, HardwareProfile, LinkSpeed

from .planning import GIB, expert, machine, model, planned_again

MB = 1 << 20
DONORS = ("cpu", "cuda:1")
FLOPS = 1e14


def profile(host: float, card: float, rates: Mapping[str, float] | None = None) -> HardwareProfile:
    """Links of so many bytes a second from host memory and from the second card to the first."""
    links = {("cpu", "cuda:0"): LinkSpeed(host, host / 2), ("cuda:1", "cuda:0"): LinkSpeed(card, card)}
    links |= {("cuda:0", "cuda:1"): LinkSpeed(card, card)}
    rates = rates or {"cuda:0": FLOPS, "cuda:1": FLOPS}
    return HardwareProfile(links, {device: {"bfloat16": rate} for device, rate in rates.items()})


def unlike(devices: list[DeviceInfo]) -> list[DeviceInfo]:
    """Cards of different makes, so that nothing is relayed."""
    return [replace(info, marketing_name=f"{info.name} card") for info in devices]


def alike(devices: list[DeviceInfo]) -> list[DeviceInfo]:
    return [replace(info, marketing_name="card") for info in devices]


def seconds(plan: AllocationPlan, speeds: HardwareProfile) -> float:
    return predict_step(plan, speeds).step_seconds


def best_of_all(inventory: Inventory, devices: list[DeviceInfo], speeds: HardwareProfile) -> float:
    """The shortest step of every plan that there is, but for cards that are slower stores than host memory."""
    links = {device: speeds.links[device, "cuda:0"].bytes_per_second for device in DONORS}
    donors = [device for device in DONORS if links[device] >= links["cpu"]]
    free = {info.name: info.free_bytes for info in devices}
    best = float("inf")
    movable = [block for block in inventory.blocks if block.kind is not BlockKind.HEAD]
    for places in product(("cuda:0", *donors), repeat=len(movable)):
        chosen = iter(places)
        placements = tuple(
            Placement(block, "cuda:0" if block.kind is BlockKind.HEAD else next(chosen)) for block in inventory.blocks
        )
        plan = AllocationPlan("cuda:0", Strategy.INTERLEAVE, placements)
        largest = max((staged_bytes(placement.block) for placement in plan.streamed), default=0)
        spare = free["cuda:0"] - plan.compute_bytes
        if largest > spare or any(plan.bytes_by_device.get(name, 0) > free[name] for name in DONORS):
            continue
        staging = min(3, spare // largest) * largest if largest else 0
        best = min(best, seconds(replace(plan, staging_bytes=staging), speeds))
    return best


SPEEDS = st.builds(profile, st.sampled_from([3e9, 13e9, 25e9, 55e9]), st.sampled_from([5e9, 12e9, 50e9]))


def sizes_of(most: int) -> st.SearchStrategy[list[int]]:
    """Blocks in megabytes: all kinds, all equal, and two kinds as in Flux."""
    return st.one_of(
        st.lists(st.integers(100, 400), min_size=4, max_size=most),
        st.integers(4, most).map(lambda count: [200] * count),
        st.integers(2, 3).map(lambda count: [340] * count + [140] * (most - count)),
    )


def over_the_best(sizes: list[int], free: float, capacity: float, speeds: HardwareProfile) -> float:
    """The step of auto's plan over that of the best of all plans; `free` and `capacity` in parts of the model."""
    inventory = model(*[size * MB for size in sizes], work=[size * MB // 2 for size in sizes])
    total = inventory.total_bytes
    devices = unlike(machine({"cpu": 64 * GIB, "cuda:0": int(total * free), "cuda:1": int(total * capacity)}))
    try:
        plan = plan_with_profile(inventory, expert("auto", devices), devices, {}, speeds)
    except PlanError:
        assume(False)
    taken = {**plan.bytes_by_device, "cuda:0": plan.compute_bytes + plan.staging_bytes}
    assert all(taken.get(info.name, 0) <= info.free_bytes for info in devices)
    return seconds(plan, speeds) / best_of_all(inventory, devices, speeds)


@given(sizes=sizes_of(7), free=st.floats(0.3, 1.0), capacity=st.sampled_from([0.3, 1.0]), speeds=SPEEDS)
@settings(max_examples=settings.default.max_examples // 4)  # each tries every plan
def test_auto_is_the_best_where_every_plan_can_be_tried(
    sizes: list[int], free: float, capacity: float, speeds: HardwareProfile
) -> None:
    assert over_the_best(sizes, free, capacity, speeds) <= 1.02


AMPLE = {"cpu": 64 * GIB, "cuda:0": 3 * GIB, "cuda:1": 64 * GIB}
TWENTY = [300 * MB] * 20


def test_a_plan_that_was_chosen_can_be_made_again_from_its_string() -> None:
    devices = unlike(machine(AMPLE))
    inventory, speeds = model(*TWENTY), profile(25e9, 50e9)
    plan = plan_with_profile(inventory, expert("auto", devices), devices, {}, speeds)
    again = plan_with_profile(inventory, expert(plan.expert_string, devices), devices, {}, speeds)
    assert again.placements == plan.placements


FEW_AND_UNEQUAL = [400 * MB, 100 * MB, 100 * MB, 400 * MB, 100 * MB, 400 * MB]


def test_every_plan_of_few_blocks_is_tried_only_with_the_default_strategy() -> None:
    devices = unlike(machine({"cpu": 64 * GIB, "cuda:0": 900 * MB, "cuda:1": GIB}))
    inventory, speeds = model(*FEW_AND_UNEQUAL), profile(3e9, 5e9)
    free, kept = (
        plan_with_profile(inventory, expert("auto", devices, strategy=strategy), devices, {}, speeds)
        for strategy in (Strategy.INTERLEAVE, Strategy.CONTIGUOUS)
    )
    assert seconds(free, speeds) < 0.9 * seconds(kept, speeds)
    assert planned_again(kept, inventory, devices).placements == kept.placements
    again = plan_with_profile(inventory, expert(free.expert_string, devices), devices, {}, speeds)
    assert again.placements == free.placements


def test_a_card_that_is_a_slower_store_than_host_memory_is_passed_over() -> None:
    devices = unlike(machine(AMPLE))
    plan = plan_with_profile(model(*TWENTY), expert("auto", devices), devices, {}, profile(6.8e9, 4.4e9))
    assert set(plan.bytes_by_device) == {"cuda:0", "cpu"}


def test_who_asks_for_a_slow_card_is_told_both_figures() -> None:
    devices = machine(AMPLE)
    request = expert("cuda:0,30%;cuda:1,70%", devices)
    plan = plan_with_profile(model(*TWENTY), request, devices, {}, profile(6.8e9, 4.4e9))
    (warning,) = plan.warnings
    assert "cuda:1 at 4.4 GB/s" in warning and "host memory at 6.8 GB/s" in warning
    assert plan_with_profile(model(*TWENTY), request, devices, {}, profile(6.8e9, 44e9)).warnings == ()


def test_equal_cards_relay_where_the_link_is_too_slow_for_weights() -> None:
    devices = alike(machine(AMPLE))
    speeds = profile(1e9, 1.2e9)
    plan = plan_with_profile(model(*TWENTY), expert("auto", devices), devices, {}, speeds)
    streamed = plan_with_profile(model(*TWENTY), expert("auto", devices), unlike(devices), {}, speeds)
    assert plan.strategy is Strategy.RELAY
    assert seconds(plan, speeds) < 0.6 * seconds(streamed, speeds)


def test_unlike_cards_never_relay_unasked() -> None:
    devices = unlike(machine(AMPLE))
    plan = plan_with_profile(model(*TWENTY), expert("auto", devices), devices, {}, profile(1e9, 1.2e9))
    assert plan.strategy is Strategy.INTERLEAVE


def test_a_model_that_fits_stays_whole() -> None:
    devices = machine(AMPLE)
    plan = plan_with_profile(model(300 * MB), expert("auto", devices), devices, {}, profile(25e9, 50e9))
    assert plan.bytes_by_device == {"cuda:0": 300 * MB}


@pytest.mark.parametrize("text", ["cuda:0,50%;cpu,50%", "cuda:0,1gb;cpu,*"])
def test_what_the_user_wrote_is_not_second_guessed(text: str) -> None:
    devices = machine({**AMPLE, "cuda:0": 6 * GIB})
    request = expert(text, devices)
    plan = plan_with_profile(model(*TWENTY), request, devices, {}, profile(25e9, 50e9))
    assert plan.bytes_by_device["cuda:0"] in (10 * 300 * MB, 3 * 300 * MB, 4 * 300 * MB)


SLOW_CARD = profile(25e9, 3e9)


def test_a_slow_donor_stores_what_host_memory_has_no_room_for_and_no_more() -> None:
    devices = unlike(machine({"cpu": 700 * MB, "cuda:0": 1500 * MB, "cuda:1": 4 * GIB}))
    plan = plan_with_profile(model(*[300 * MB] * 10), expert("auto", devices), devices, {}, SLOW_CARD)
    stored = plan.bytes_by_device
    assert stored["cpu"] == 600 * MB and stored["cuda:1"] <= 1800 * MB


@pytest.mark.parametrize("wish", ["auto", "cpu,50%;cuda:0,50%"])
def test_a_model_that_computes_on_the_cpu_is_planned_too(wish: str) -> None:
    devices = unlike(machine({"cpu": 2 * GIB, "cuda:0": 2 * GIB, "cuda:1": GIB}))
    plan = plan_with_profile(model(*[300 * MB] * 10), expert(wish, devices, "cpu"), devices, {}, SLOW_CARD)
    assert sum(plan.bytes_by_device.values()) == 3000 * MB and plan.bytes_by_device["cuda:0"]
