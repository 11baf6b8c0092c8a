"""`auto` with a hardware profile: as fast as can be, and honest about slow donors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random

import pytest

from multigpu.multigpu_core.allocation import (
    AllocationPlan,
    Strategy,
    plan_with_profile,
    predict_step,
)
from multigpu.multigpu_core.devices import DeviceInfo, HardwareProfile, LinkSpeed

from .planning import GIB, expert, layered, machine, model

MB = 1 << 20
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


@pytest.mark.parametrize("seed", range(60))
def test_auto_is_near_the_least_that_any_plan_can_take(seed: int) -> None:
    random = Random(seed)
    sizes = [random.randint(20, 100) * MB for _ in range(random.randint(3, 6))]
    work = [size // random.choice([2, 2, 2, 18]) for size in sizes]
    inventory = layered(random.randint(4, 10), *sizes, work=work)
    speed = random.choice([3e9, 13e9, 25e9, 55e9])
    devices = machine({"cpu": 64 * GIB, "cuda:0": int(inventory.total_bytes * random.uniform(0.3, 1))})
    speeds = profile(speed, speed)
    plan = plan_with_profile(inventory, expert("auto", devices), devices, {}, speeds)
    assert plan.compute_bytes + plan.staging_bytes <= devices[1].free_bytes
    computing = predict_step(plan, speeds).compute_seconds
    away = inventory.total_bytes - devices[1].free_bytes + 3 * max(sizes)
    assert seconds(plan, speeds) <= 1.2 * max(computing, away / speed)


AMPLE = {"cpu": 64 * GIB, "cuda:0": 3 * GIB, "cuda:1": 64 * GIB}
TWENTY = [300 * MB] * 20


def test_a_plan_that_was_chosen_can_be_made_again_from_its_string() -> None:
    devices = unlike(machine(AMPLE))
    inventory, speeds = model(*TWENTY), profile(25e9, 50e9)
    plan = plan_with_profile(inventory, expert("auto", devices), devices, {}, speeds)
    again = plan_with_profile(inventory, expert(plan.expert_string, devices), devices, {}, speeds)
    assert again.placements == plan.placements


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
