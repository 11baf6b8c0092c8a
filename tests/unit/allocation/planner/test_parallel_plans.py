"""Plans for `parallel`: the GPUs that are named store the same blocks, and share the work as their shares say."""

from __future__ import annotations

import pytest

from multigpu.multigpu_core.allocation import (
    AllocationMode,
    AllocationPlan,
    AllocationRequest,
    PlanError,
    Strategy,
    plan_allocation,
    plan_with_profile,
    warned_if_unmoved,
)
from multigpu.multigpu_core.allocation.planner.staging_bytes import staged_bytes
from multigpu.multigpu_core.devices import DeviceInfo, HardwareProfile, LinkSpeed

from .planning import expert, layered, machine, model, planned_again

AMPLE = machine(dict.fromkeys(("cpu", "cuda:0", "cuda:1", "cuda:2", "mps"), 1000))
MODEL = model(*[8] * 10, head=10)
"""A hundred bytes, twenty of them heads."""


def parallel(text: str, devices: list[DeviceInfo] = AMPLE) -> AllocationPlan:
    return plan_allocation(MODEL, expert(text, devices, strategy=Strategy.PARALLEL), devices)


def wished(mode: AllocationMode, devices: list[DeviceInfo], **more: object) -> AllocationPlan:
    request = AllocationRequest("cuda:0", mode, strategy=Strategy.PARALLEL, **more)  # type: ignore[arg-type]
    return plan_allocation(MODEL, request, devices)


def work(plan: AllocationPlan) -> dict[str, int]:
    return {share.device: share.amount for share in plan.work_shares}


@pytest.mark.parametrize(
    ("text", "stored", "shares"),
    [
        ("cuda:0,50%;cuda:1,50%", {"cuda:0": 100}, {"cuda:0": 50, "cuda:1": 50}),
        ("cuda:0,30%;cuda:1,30%;cpu,40%", {"cuda:0": 60, "cpu": 40}, {"cuda:0": 30, "cuda:1": 30}),
        ("cuda:0,60%;cuda:1,20%;cuda:2,20%", {"cuda:0": 100}, {"cuda:0": 60, "cuda:1": 20, "cuda:2": 20}),
        ("cuda:0,45b;cuda:1,15b;cpu,*", {"cuda:0": 60, "cpu": 40}, {"cuda:0": 45, "cuda:1": 15}),
        ("cuda:0,0.03;cuda:1,0.03;cpu,*", {"cuda:0": 60, "cpu": 40}, {"cuda:0": 30, "cuda:1": 30}),
        ("cuda:0,60b;cuda:1,*", {"cuda:0": 100}, {"cuda:0": 60, "cuda:1": 40}),
        ("cuda:0,50%;cuda:1,25%;mps,25%", {"cuda:0": 76, "mps": 24}, {"cuda:0": 51, "cuda:1": 25}),
    ],
)
def test_what_gpus_get_is_stored_by_each_and_is_their_part_of_the_work(
    text: str, stored: dict[str, int], shares: dict[str, int]
) -> None:
    plan = parallel(text)
    assert plan.bytes_by_device == stored
    assert work(plan) == pytest.approx(shares, abs=1)
    assert sum(work(plan).values()) == plan.compute_bytes
    assert plan.replica_devices == tuple(shares)[1:]
    assert planned_again(plan, MODEL, AMPLE) == plan


def test_a_gpu_that_no_other_is_named_with_computes_alone() -> None:
    plan = parallel("cuda:0,60%;cpu,40%")
    assert plan.work_shares == () == plan.replica_devices


def test_the_gpu_with_the_least_room_sets_the_limit_and_is_named() -> None:
    devices = machine({"cpu": 10**5, "cuda:0": 10**5, "cuda:1": 5000})
    inventory = model(*[800] * 10, head=1000)
    with pytest.raises(PlanError, match=r"cuda:1 would have to store"):
        plan_allocation(inventory, expert("cuda:0,50%;cuda:1,50%", devices, strategy=Strategy.PARALLEL), devices)
    request = AllocationRequest("cuda:0", AllocationMode.AUTO, strategy=Strategy.PARALLEL)
    plan = plan_allocation(inventory, request, devices)
    assert plan.replica_devices == ("cuda:1",)
    assert 2000 < plan.compute_bytes <= 5000 - plan.staging_bytes


def test_auto_lets_every_gpu_compute_and_streams_what_does_not_fit_on_each() -> None:
    plan = wished(AllocationMode.AUTO, AMPLE)
    assert work(plan) == pytest.approx({"cuda:0": 33, "cuda:1": 33, "cuda:2": 33}, abs=1)
    assert plan.bytes_by_device == {"cuda:0": 100}


def test_auto_shares_the_work_as_fast_as_the_gpus_compute() -> None:
    links = {pair: LinkSpeed(1e10, 1e10) for pair in (("cpu", "cuda:0"), ("cpu", "cuda:1"))}
    profile = HardwareProfile(links, {"cuda:0": {"bfloat16": 3e14}, "cuda:1": {"bfloat16": 1e14}})
    devices = AMPLE[:3]
    request = AllocationRequest("cuda:0", AllocationMode.AUTO, strategy=Strategy.PARALLEL)
    assert work(plan_with_profile(MODEL, request, devices, {}, profile)) == {"cuda:0": 75, "cuda:1": 25}


def test_virtual_vram_is_what_is_streamed_to_the_gpus_that_are_named_as_donors() -> None:
    plan = wished(AllocationMode.VIRTUAL_VRAM, AMPLE, virtual_vram_bytes=40, donors=("cuda:1", "cpu"))
    assert plan.bytes_by_device == {"cuda:0": 60, "cpu": 40}
    assert work(plan) == {"cuda:0": 30, "cuda:1": 30}


def test_on_the_cpu_nothing_is_replicated() -> None:
    request = expert("cpu,50%;cuda:0,50%", AMPLE, "cpu", Strategy.PARALLEL)
    assert plan_allocation(MODEL, request, AMPLE).work_shares == ()


def test_a_model_that_is_whole_on_each_gpu_is_no_split_that_moves_nothing() -> None:
    request = expert("cuda:0,50%;cuda:1,50%", AMPLE, strategy=Strategy.PARALLEL)
    for inventory in (MODEL, model(head=10)):
        assert warned_if_unmoved(plan_allocation(inventory, request, AMPLE), request).warnings == ()


def test_staging_of_an_explicit_split_fits_beside_what_the_smallest_gpu_stores() -> None:
    layers = layered(20, 110, 54, 72, 72)
    place = max(staged_bytes(layer) for layer in layers.by_layers.blocks)
    stored = layers.total_bytes // 5
    devices = machine({"cpu": 10**6, "cuda:0": 10**6, "cuda:1": stored + 5 * place // 2})
    profile = HardwareProfile({("cpu", "cuda:0"): LinkSpeed(3e9, 1e9)}, {"cuda:0": {"bfloat16": 1e14}})
    request = expert("cuda:0,10%;cuda:1,10%;cpu,*", devices, strategy=Strategy.PARALLEL)
    plan = plan_with_profile(layers, request, devices, {}, profile)
    assert plan.streamed and plan.replica_devices == ("cuda:1",)
    free = {info.name: info.free_bytes for info in devices}
    assert plan.compute_bytes + plan.staging_bytes <= free["cuda:1"]
