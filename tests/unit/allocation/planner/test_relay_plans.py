"""Plans for the relay: a few chunks of consecutive blocks on each card that computes."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multigpu.multigpu_core.allocation import (
    AllocationPlan,
    Block,
    BlockKind,
    Inventory,
    PlanError,
    Strategy,
    plan_allocation,
)
from multigpu.multigpu_core.strategies.relay_chunks import ChunkPicker, round_count

from .planning import expert, machine, model, planned_again

AMPLE = machine(dict.fromkeys(("cpu", "cuda:0", "cuda:1", "cuda:2"), 10**9))
SIZES = st.lists(st.integers(1, 1000), min_size=1, max_size=60)
SHARES = st.dictionaries(st.sampled_from(("cuda:0", "cuda:1", "cuda:2", "cpu")), st.integers(1, 50), min_size=1)


def relay_plan(sizes: list[int], text: str) -> AllocationPlan:
    return plan_allocation(model(*sizes), expert(text, AMPLE, strategy=Strategy.RELAY), AMPLE)


def order(plan: AllocationPlan) -> str:
    """The devices of the movable blocks in execution order: the last letter of each name."""
    return "".join(placement.device[-1] for placement in plan.placements[1:-1])


@pytest.mark.parametrize(
    ("count", "text", "expected"),
    [
        (16, "cuda:0,50%;cuda:1,50%", "0011001100110011"),
        (16, "cuda:0,25%;cuda:1,75%", "0111011101110111"),
        (12, "cuda:0,34%;cuda:1,33%;cuda:2,33%", "012012012012"),
        (4, "cuda:0,50%;cuda:1,50%", "0101"),
        (3, "cuda:0,34%;cuda:1,66%", "011"),
        (1, "cuda:0,1%;cuda:1,99%", "1"),
    ],
)
def test_consecutive_blocks_take_turns_on_the_cards_four_times_or_fewer_where_blocks_are_few(
    count: int, text: str, expected: str
) -> None:
    assert order(relay_plan([10] * count, text)) == expected


def test_what_is_stored_in_system_memory_is_streamed_between_the_compute_device_s_own_blocks() -> None:
    plan = relay_plan([10] * 16, "cuda:0,25%;cuda:1,50%;cpu,25%")
    assert order(plan).replace("u", "0") == "0011001100110011"
    assert {p.device for p in plan.placements if p.relayed} == {"cuda:1"}
    assert [p.device for p in plan.streamed] == ["cpu"] * 4
    assert "uu" not in order(plan)


def test_no_other_strategy_lets_a_donor_compute() -> None:
    for strategy in (Strategy.INTERLEAVE, Strategy.CONTIGUOUS):
        plan = plan_allocation(model(*[10] * 8), expert("cuda:0,50%;cuda:1,50%", AMPLE, strategy=strategy), AMPLE)
        assert plan.offloaded == plan.streamed != ()


def test_a_donor_that_has_no_room_for_its_chunks_is_refused() -> None:
    devices = machine({"cpu": 1000, "cuda:0": 1000, "cuda:1": 30})
    with pytest.raises(PlanError, match="cuda:1"):
        plan_allocation(model(*[10] * 8), expert("cuda:0,50%;cuda:1,50%", devices, strategy=Strategy.RELAY), devices)


@given(SIZES, SHARES)
def test_a_card_never_has_more_chunks_than_rounds_and_every_share_is_met_within_a_block(
    sizes: list[int], shares: dict[str, int]
) -> None:
    plan = relay_plan(sizes, ";".join(f"{device},{weight}%" for device, weight in shares.items()))
    computing = ["cuda:0" if device == "cpu" else device for device in (p.device for p in plan.placements)]
    turns = [device for device, _ in groupby(computing)]
    assert all(turns.count(device) <= round_count(len(sizes)) for device in set(turns) - {"cuda:0"})
    total, weights = sum(sizes), sum(shares.values())
    for device, weight in shares.items():
        assert abs(plan.bytes_by_device.get(device, 0) - total * weight / weights) <= max(sizes) + 1


def check_shares(sizes: list[int], work: list[int], shares: dict[str, int], slack: int | None, blocks: int) -> None:
    """Every share is met within so many blocks. With a `slack` each card has that much more memory than its share."""
    total, weights = sum(sizes), sum(shares.values())
    targets = {device: total * weight / weights for device, weight in shares.items()}
    devices = AMPLE
    if slack is not None:
        # The model has heads of its own beside these blocks, which the compute device stores.
        free = {name: int(targets.get(name, 0)) + slack + 1 for name in ("cuda:1", "cuda:2")}
        devices = machine({"cpu": 10**9, "cuda:0": 10**9, **free})
    text = ";".join(f"{device},{weight}%" for device, weight in shares.items())
    request = expert(text, devices, strategy=Strategy.RELAY)
    plan = plan_allocation(model(*sizes, work=work), request, devices)
    for device, target in targets.items():
        assert abs(plan.bytes_by_device.get(device, 0) - target) <= blocks * max(sizes) + 1


BLOCKS = st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 50_000)), min_size=1, max_size=40)


@given(BLOCKS, SHARES)
def test_every_share_is_met_within_a_block_whatever_the_blocks_compute(
    blocks: list[tuple[int, int]], shares: dict[str, int]
) -> None:
    sizes, work = zip(*blocks, strict=True)
    check_shares(list(sizes), list(work), shares, slack=None, blocks=1)


@given(BLOCKS, SHARES, st.integers(0, 1000))
def test_each_card_that_is_full_passes_less_than_a_block_on(
    blocks: list[tuple[int, int]], shares: dict[str, int], slack: int
) -> None:
    sizes, work = zip(*blocks, strict=True)
    check_shares(
        list(sizes), list(work), shares, slack, blocks=1 + sum(card in shares for card in ("cuda:1", "cuda:2"))
    )


@pytest.mark.long
@given(BLOCKS, SHARES)
@settings(max_examples=70_000)
def test_the_same_of_many_more_plans(blocks: list[tuple[int, int]], shares: dict[str, int]) -> None:
    sizes, work = zip(*blocks, strict=True)
    check_shares(list(sizes), list(work), shares, slack=None, blocks=1)


@given(SIZES, SHARES)
def test_the_plan_s_byte_string_makes_the_same_chunks_again(sizes: list[int], shares: dict[str, int]) -> None:
    plan = relay_plan(sizes, ";".join(f"{device},{weight}%" for device, weight in shares.items()))
    assert planned_again(plan, model(*sizes), AMPLE).placements == plan.placements


@given(SIZES, st.integers(0, 30_000), st.integers(0, 30_000))
def test_a_pick_keeps_its_limit_and_comes_nearest_to_what_is_wanted(sizes: list[int], wanted: int, limit: int) -> None:
    picker = ChunkPicker(sizes, sizes[::-1])
    picked = picker.pick(wanted, limit)
    size = sum(sizes[i] for i in picked)
    assert size <= limit
    assert abs(size - min(wanted, limit)) <= max(sizes) / 2 or size == sum(sizes) or size + max(sizes) > limit
    assert sorted(picked + picker.left) == list(range(len(sizes)))


@given(SIZES, st.integers(1, 99))
def test_every_chunk_of_a_card_has_about_the_same_bytes(sizes: list[int], percent: int) -> None:
    plan = relay_plan(sizes, f"cuda:0,{100 - percent}%;cuda:1,{percent}%")
    movable = [p for p in plan.placements if p.block.kind is not BlockKind.HEAD]
    chunks = [sum(p.block.size_bytes for p in run) for relayed, run in groupby(movable, lambda p: p.relayed) if relayed]
    if len(chunks) == round_count(len(sizes)) and len(sizes) >= 8:
        assert max(chunks) - min(chunks) <= 3 * max(sizes)


def test_a_round_has_the_same_work_on_each_card_where_bytes_and_work_differ() -> None:
    blocks = [Block(f"blocks.{i}", BlockKind.TRANSFORMER, "bfloat16", 30, (f"{i}.weight",), work=10) for i in range(8)]
    blocks += [Block(f"single.{i}", BlockKind.TRANSFORMER, "bfloat16", 10, (f"{i}.bias",), work=10) for i in range(8)]
    request = expert("cuda:0,50%;cuda:1,50%", AMPLE, strategy=Strategy.RELAY)
    plan = plan_allocation(Inventory(tuple(blocks)), request, AMPLE)
    assert "".join(placement.device[-1] for placement in plan.placements) == "0011001100110011"
