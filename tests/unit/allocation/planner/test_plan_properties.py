"""What holds for every plan, whatever the model, the machine and the request."""

from __future__ import annotations

import dataclasses
from itertools import accumulate, pairwise

from hypothesis import given
from hypothesis import strategies as st

from multigpu.multigpu_core.allocation import (
    AllocationMode,
    AllocationPlan,
    AllocationRequest,
    BlockKind,
    Inventory,
    PlanError,
    Strategy,
    plan_allocation,
)
from multigpu.multigpu_core.devices import DeviceInfo
from multigpu.multigpu_core.strategies.built_in import built_in_strategies

from .planning import expert, machine, model, planned_again

NAMES = ("cpu", "cuda:0", "cuda:1", "mps", "xpu:10", "xpu:2")
SIZES = st.one_of(
    st.lists(st.integers(0, 1000), max_size=40),
    st.lists(st.sampled_from([280, 650, 1]), max_size=60),
    st.integers(1, 60).map(lambda count: [100] * count),
)


@st.composite
def inventories(draw: st.DrawFn) -> Inventory:
    sizes = draw(SIZES)
    densities = draw(st.lists(st.sampled_from([0, 1, 2, 50]), min_size=len(sizes), max_size=len(sizes)))
    work = [size * density for size, density in zip(sizes, densities, strict=True)]
    return model(*sizes, head=draw(st.integers(0, 300)), work=work)


INVENTORIES = inventories()
AMPLE = machine(dict.fromkeys(NAMES, 10**9))
DISTRIBUTING = [strategy for strategy in built_in_strategies() if not strategy.replicates]


@st.composite
def ratio_strings(draw: st.DrawFn) -> str:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    return ";".join(f"{name},{draw(st.integers(1, 50))}%" for name in names)


@st.composite
def any_requests(draw: st.DrawFn) -> AllocationRequest:
    compute = draw(st.sampled_from(NAMES))
    strategy = draw(st.sampled_from(built_in_strategies().known))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    donors = tuple(name for name in names if name != compute)
    if donors and draw(st.booleans()):
        size = draw(st.integers(1, 20_000))
        return AllocationRequest(
            compute, AllocationMode.VIRTUAL_VRAM, virtual_vram_bytes=size, donors=donors, strategy=strategy
        )
    sizes = ";".join(f"{name},{draw(st.integers(1, 8000))}b" for name in names)
    text = draw(st.one_of(st.just("auto"), ratio_strings(), st.just(sizes), st.just(f"{sizes}*")))
    return expert(text, AMPLE, compute, strategy)


MACHINES = st.fixed_dictionaries({name: st.integers(0, 20_000) for name in NAMES}).map(machine)


def planned(inventory: Inventory, request: AllocationRequest, devices: list[DeviceInfo]) -> AllocationPlan | None:
    try:
        return plan_allocation(inventory, request, devices)
    except PlanError as error:
        assert error.needed_bytes > error.free_bytes
        return None


@given(INVENTORIES, any_requests(), MACHINES)
def test_no_byte_is_lost_no_device_overfilled_and_heads_stay(
    inventory: Inventory, request: AllocationRequest, devices: list[DeviceInfo]
) -> None:
    plan = planned(inventory, request, devices)
    if plan is None:
        return
    assert tuple(placement.block for placement in plan.placements) == inventory.blocks
    assert sum(plan.bytes_by_device.values()) == inventory.total_bytes
    free = {info.name: info.free_bytes for info in devices}
    assert all(size <= free[device] for device, size in plan.bytes_by_device.items())
    for device in (request.compute_device, *plan.replica_devices):
        assert plan.compute_bytes + plan.staging_bytes <= free[device]
    assert bool(plan.staging_bytes) == any(placement.block.size_bytes for placement in plan.streamed)
    heads = [placement for placement in plan.placements if placement.block.kind is BlockKind.HEAD]
    assert {placement.device for placement in heads} <= {request.compute_device}


@given(INVENTORIES, any_requests(), MACHINES)
def test_the_expert_string_of_a_plan_makes_the_same_plan(
    inventory: Inventory, request: AllocationRequest, devices: list[DeviceInfo]
) -> None:
    plan = planned(inventory, request, devices)
    if plan is not None:
        again = planned_again(plan, inventory, devices)
        assert again.placements == plan.placements
        assert again.warnings == ()
        assert again.staging_bytes == plan.staging_bytes
        assert again.expert_string == plan.expert_string
        assert again.work_shares == plan.work_shares


@given(INVENTORIES, ratio_strings(), st.sampled_from(NAMES), st.sampled_from(DISTRIBUTING))
def test_every_share_is_met_within_one_block(inventory: Inventory, text: str, compute: str, strategy: Strategy) -> None:
    plan = plan_allocation(inventory, expert(text, AMPLE, compute, strategy), AMPLE)
    movable = [block.size_bytes for block in inventory.blocks if block.kind is not BlockKind.HEAD]
    weights = {part.partition(",")[0]: int(part.partition(",")[2][:-1]) for part in text.split(";")}
    if compute not in weights:
        wanted = {name: sum(movable) * weight / sum(weights.values()) for name, weight in weights.items()}
    elif inventory.total_bytes * weights[compute] / sum(weights.values()) >= inventory.head_bytes:
        wanted = {name: inventory.total_bytes * weight / sum(weights.values()) for name, weight in weights.items()}
    else:
        return  # the heads bend the shares
    for device, size in wanted.items():
        assert abs(plan.bytes_by_device.get(device, 0) - size) <= max(movable, default=0) + 1


@given(INVENTORIES, any_requests(), MACHINES, st.randoms())
def test_other_names_of_blocks_and_the_order_of_unused_devices_change_nothing(
    inventory: Inventory, request: AllocationRequest, devices: list[DeviceInfo], random: object
) -> None:
    if request.mode is AllocationMode.AUTO:
        return  # fills accelerators in the machine's order
    plan = planned(inventory, request, devices)
    renamed = Inventory(tuple(dataclasses.replace(block, name=f"x{i}") for i, block in enumerate(inventory.blocks)))
    again = planned(renamed, request, devices[::-1])
    assert (plan is None) == (again is None)
    if plan is not None and again is not None:
        assert [p.device for p in plan.placements] == [p.device for p in again.placements]


@given(SIZES, st.integers(0, 100))
def test_interleave_offloads_in_proportion_all_along_the_model(sizes: list[int], percent: int) -> None:
    devices = AMPLE
    inventory = model(*sizes)
    plan = plan_allocation(inventory, expert(f"cuda:0,{percent}%;cpu,{100 - percent}%", devices), devices)
    stored = [p.block.size_bytes if p.device == "cpu" else 0 for p in plan.placements]
    total = inventory.total_bytes
    largest = inventory.largest_block_bytes
    for seen, offloaded in zip(
        accumulate(p.block.size_bytes for p in plan.placements), accumulate(stored), strict=True
    ):
        assert abs(offloaded * total - seen * sum(stored)) <= 2 * largest * total


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 1000)), min_size=1, max_size=40), st.integers(0, 100))
def test_interleave_leaves_the_same_time_for_every_transfer(blocks: list[tuple[int, int]], percent: int) -> None:
    sizes, work = zip(*blocks, strict=True)
    inventory = model(*sizes, work=work)
    plan = plan_allocation(inventory, expert(f"cuda:0,{percent}%;cpu,{100 - percent}%", AMPLE), AMPLE)
    stored = [p.block.size_bytes if p.device == "cpu" else 0 for p in plan.placements]
    if any(size * sum(work) < sum(stored) * each for size, each in blocks):
        return  # a block that is too small for its part of the time is offloaded, and the others have the more
    for worked, offloaded in zip(accumulate(p.block.work for p in plan.placements), accumulate(stored), strict=True):
        assert abs(offloaded * sum(work) - worked * sum(stored)) <= 3 * max(sizes) * sum(work)


@given(st.integers(2, 60), st.data())
def test_of_equal_blocks_the_gaps_between_offloaded_ones_differ_by_two_at_most(count: int, data: st.DataObject) -> None:
    offloaded = data.draw(st.integers(2, count))
    plan = plan_allocation(model(*[10] * count), expert(f"cpu,{10 * offloaded}b;cuda:0,*", AMPLE), AMPLE)
    places = [i for i, placement in enumerate(plan.placements) if placement.device == "cpu"]
    assert len(places) == offloaded
    gaps = [after - before for before, after in pairwise(places)]
    assert max(gaps) - min(gaps) <= 2


@given(SIZES, st.integers(1, 99))
def test_contiguous_gives_every_device_one_stretch_and_compute_the_last(sizes: list[int], percent: int) -> None:
    sizes = [size for size in sizes if size]
    text = f"cuda:0,{percent}%;mps,{100 - percent}%;cpu,50%"
    plan = plan_allocation(model(*sizes), expert(text, AMPLE, strategy=Strategy.CONTIGUOUS), AMPLE)
    devices = [placement.device for placement in plan.placements[1:-1]]
    ranks = [("mps", "cpu", "cuda:0").index(device) for device in devices]
    assert ranks == sorted(ranks)
