"""How much of the compute device is kept for streaming: as little as costs nothing, or what the setting says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from multigpu.multigpu_core.allocation import (
    AllocationPlan,
    Block,
    BlockKind,
    Placement,
    Strategy,
    plan_allocation,
    plan_with_profile,
    predict_step,
)
from multigpu.multigpu_core.allocation.planner.staging_bytes import Staging, staged_bytes
from multigpu.multigpu_core.allocation.planner.staging_choice import TOLERANCE, staging_sizes, trade_off
from multigpu.multigpu_core.devices import HardwareProfile, LinkSpeed

from .planning import GIB, expert, layered, machine

MB = 1 << 20
LAYERS = (110 * MB, 54 * MB, 72 * MB, 72 * MB)
WORK = (0, 54 * MB, 8 * MB, 72 * MB)
MODEL = layered(20, *LAYERS, work=WORK)
DEVICES = machine({"cpu": 64 * GIB, "cuda:0": 64 * GIB})
PLACE = max(map(staged_bytes, MODEL.by_layers.blocks))


def speeds(bytes_per_second: float) -> HardwareProfile:
    return HardwareProfile({("cpu", "cuda:0"): LinkSpeed(bytes_per_second, 1e9)}, {"cuda:0": {"bfloat16": 1e14}})


def planned(percent: int, link: float, staging: Staging = "auto", free: int = 64 * GIB) -> AllocationPlan:
    devices = machine({"cpu": 64 * GIB, "cuda:0": free})
    request = expert(f"cpu,{percent}%;cuda:0,{100 - percent}%", devices)
    return plan_with_profile(MODEL, request, devices, {}, speeds(link), staging)


@pytest.mark.parametrize("percent", [50, 80, 100])
@pytest.mark.parametrize("link", [3e9, 20e9, 60e9])
def test_auto_keeps_the_least_that_is_within_a_hundredth_of_the_best(percent: int, link: float) -> None:
    plan = planned(percent, link)
    steps = {
        size: predict_step(replace(plan, staging_bytes=size), speeds(link)).step_seconds for size in staging_sizes(plan)
    }
    best = min(steps.values())
    near = [size for size, seconds in steps.items() if seconds <= TOLERANCE * best]
    assert plan.staging_bytes == min(near)
    assert min(steps) == 3 * max(staged_bytes(placement.block) for placement in plan.streamed)


def test_what_is_kept_depends_on_the_machine() -> None:
    assert len({planned(80, link).staging_bytes for link in (3e9, 20e9)}) == 2


def test_the_setting_is_followed_as_far_as_memory_goes() -> None:
    block = sum(staged_bytes(layer) for layer in MODEL.blocks[0].layers)
    assert planned(100, 25e9, "small").staging_bytes == 2 * PLACE
    assert planned(100, 25e9, "large").staging_bytes == 3 * block
    assert planned(100, 25e9, 500 * MB).staging_bytes == 500 * MB
    assert planned(100, 25e9, 0).staging_bytes == PLACE, "there is no streaming without a place"
    assert planned(100, 25e9, "large", free=PLACE * 5 + 9).staging_bytes == 5 * PLACE
    assert planned(100, 25e9, free=PLACE * 2 + 9).staging_bytes == 2 * PLACE


def test_auto_of_a_small_card_stores_what_a_small_buffer_leaves() -> None:
    devices = machine({"cpu": 64 * GIB, "cuda:0": 2 * GIB})
    small, large = (
        plan_with_profile(MODEL, expert("auto", devices), devices, {}, speeds(25e9), staging)
        for staging in ("small", "large")
    )
    assert small.staging_bytes < large.staging_bytes and small.compute_bytes > large.compute_bytes
    for plan in (small, large):
        assert plan.compute_bytes + plan.staging_bytes <= 2 * GIB


def test_the_trade_off_begins_with_small_and_ends_with_large() -> None:
    plan = planned(100, 40e9)
    sizes = [size for size, _ in trade_off(plan, speeds(40e9))]
    assert sizes == sorted(set(sizes))
    assert sizes[0] == planned(100, 40e9, "small").staging_bytes
    assert sizes[-1] == planned(100, 40e9, "large").staging_bytes


def test_shares_are_met_within_the_largest_layer_and_of_two_as_close_the_smaller_is_kept() -> None:
    nine = layered(9, 100 * MB, 100 * MB, 100 * MB, 100 * MB)
    devices = machine({"cpu": 64 * GIB, "cuda:0": 64 * GIB, "cuda:1": 64 * GIB})
    plan = plan_allocation(nine, expert("cuda:0,30%;cuda:1,40%;cpu,30%", devices), devices)
    wanted = {"cuda:0": 1080 * MB, "cuda:1": 1440 * MB, "cpu": 1080 * MB}
    assert all(abs(plan.bytes_by_device[device] - size) <= 100 * MB for device, size in wanted.items())
    half = expert("cuda:0,50%;cpu,50%", devices)
    assert plan_allocation(layered(5, 100 * MB), half, devices).bytes_by_device["cuda:0"] == 200 * MB


def test_of_a_block_the_layers_that_compute_least_stay() -> None:
    plan = planned(60, 25e9)
    away = [sum(layer.block.name.endswith(f".{i}") for layer in plan.streamed) for i in range(len(LAYERS))]
    assert away[0] == 0 and away[3] == 20


def test_of_a_block_that_a_plugin_offloads_as_a_whole_the_small_rest_stays() -> None:
    layer = Block("b.up", BlockKind.TRANSFORMER, "bfloat16", 90, ("b.up.weight",), 0, (), "b")
    rest = Block("b", BlockKind.HEAD, "bfloat16", 10, ("b.scale",), 0, (), "b")
    block = Block("b", BlockKind.TRANSFORMER, "bfloat16", 100, ("b.scale", "b.up.weight"), 0, (rest, layer))
    whole = AllocationPlan("cuda:0", Strategy.INTERLEAVE, (Placement(block, "cpu"),))
    assert whole.by_layers.placements == (Placement(rest, "cuda:0"), Placement(layer, "cpu"))
    relayed = replace(whole, placements=(Placement(block, "cuda:1", relayed=True),))
    assert relayed.by_layers == relayed
