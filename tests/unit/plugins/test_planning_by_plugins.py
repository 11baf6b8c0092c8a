"""Plans that plugins make: the last registered is asked first, and a broken planner spoils no load."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import structlog

from multigpu import hookimpl, hookspecs
from multigpu.multigpu_core.allocation import (
    AllocationPlan,
    AllocationRequest,
    Block,
    BlockKind,
    Inventory,
    Placement,
    PlanError,
    Strategy,
    WorkShare,
)
from multigpu.multigpu_core.devices import DeviceInfo, HardwareProfile
from multigpu.multigpu_core.plugins import Candidate, PluginManager
from multigpu.multigpu_core.plugins.defaults import DefaultPlanner

MODEL = Inventory(
    tuple(Block(f"blocks.{i}", BlockKind.TRANSFORMER, "bfloat16", 10, (f"blocks.{i}.weight",)) for i in range(4))
)
CPU = DeviceInfo("cpu", "cpu", None, "cpu", 1000, 1000, can_pin_host_memory=False, has_streams=False)
REQUEST = AllocationRequest("cpu")
PROFILE = HardwareProfile({}, {})
ARGUMENTS = {
    "inventory": MODEL,
    "request": REQUEST,
    "devices": [CPU],
    "reserve_bytes": {},
    "profile": PROFILE,
    "draft": False,
}
Plan = Callable[[], Any]


def planner(plan: Plan) -> object:
    class Planner:
        @hookimpl
        def multigpu_plan_allocation(self) -> Any:
            return plan()

    return Planner()


def default_plan() -> AllocationPlan:
    arguments = {name: value for name, value in ARGUMENTS.items() if name != "draft"}
    return DefaultPlanner().multigpu_plan_allocation(**arguments)


def manager_of(**plans: Plan) -> PluginManager:
    manager = PluginManager(hookspecs)
    manager.register(DefaultPlanner(), "default_planner")
    manager.register_all(
        Candidate(name, "a test", "1", lambda plan=plan: planner(plan)) for name, plan in plans.items()
    )
    return manager


def raising(error: BaseException) -> Plan:
    def plan() -> Any:
        raise error

    return plan


def test_the_plan_of_the_plugin_registered_last_is_taken() -> None:
    theirs = replace(default_plan(), warnings=("theirs",))
    manager = manager_of(first=raising(AssertionError("not asked")), second=lambda: theirs)
    assert manager.plan_allocation(**ARGUMENTS) is theirs


def test_our_own_planner_answers_where_no_plugin_does() -> None:
    assert manager_of(modest=lambda: None).plan_allocation(**ARGUMENTS) == default_plan()


@pytest.mark.parametrize(
    "broken",
    [
        raising(AttributeError("blockz")),
        raising(SystemExit(1)),
        raising(asyncio.CancelledError()),
        raising(GeneratorExit()),
    ],
    ids=["raises", "exits", "cancels", "closes"],
)
def test_a_planner_that_fails_is_reported_and_the_model_still_loads(broken: Plan) -> None:
    manager = manager_of(broken=broken)
    assert manager.plan_allocation(**ARGUMENTS) == default_plan()
    assert not manager.records["broken"].works and manager.records["broken"].traceback
    assert manager.plan_allocation(**ARGUMENTS) == default_plan(), "and it is not asked again"


SPLIT = Inventory((Block("head", BlockKind.HEAD, "bfloat16", 5, ("head.weight",)), *MODEL.blocks))
CARDS = [replace(CPU, name=name) for name in ("cuda:0", "cuda:1")]
SPLIT_REQUEST = AllocationRequest("cuda:0", strategy=Strategy.RELAY)
SPLIT_ARGUMENTS = {**ARGUMENTS, "inventory": SPLIT, "request": SPLIT_REQUEST, "devices": [CPU, *CARDS]}
DEVICES = ("cuda:0", "cuda:0", "cuda:1", "cpu", "cuda:1")
GOOD = AllocationPlan(
    "cuda:0",
    Strategy.RELAY,
    tuple(Placement(b, d, relayed=d == "cuda:1") for b, d in zip(SPLIT.blocks, DEVICES, strict=True)),
    staging_bytes=20,
)


def with_placement(index: int, **changes: Any) -> AllocationPlan:
    placements = list(GOOD.placements)
    placements[index] = replace(placements[index], **changes)
    return replace(GOOD, placements=tuple(placements))


def with_block(index: int, **changes: Any) -> AllocationPlan:
    return with_placement(index, block=replace(SPLIT.blocks[index], **changes))


class Subclassed(AllocationPlan):
    """May answer otherwise each time that it is asked."""


FIRST = GOOD.placements[1]
HALVES = (WorkShare("cuda:0", 5), WorkShare("cuda:1", 5))
ALL_ON_COMPUTE = tuple(Placement(block, "cuda:0") for block in SPLIT.blocks)


def shared(work_shares: Any) -> AllocationPlan:
    plain = tuple(replace(placement, relayed=False) for placement in GOOD.placements)
    return replace(GOOD, strategy=Strategy.PARALLEL, placements=plain, work_shares=work_shares)


BROKEN_PLANS: dict[str, tuple[Any, str]] = {
    "no plan": ("cpu,*", "answered with a str, which is no AllocationPlan"),
    "a subclass": (Subclassed("cuda:0", Strategy.RELAY, GOOD.placements), "is no AllocationPlan"),
    "no placements": (replace(GOOD, placements=None), "no tuple of Placement"),
    "other placements": (replace(GOOD, placements=("head",) * 5), "no tuple of Placement"),
    "forgets a block": (replace(GOOD, placements=GOOD.placements[1:]), "places the block head 0 times"),
    "places blocks twice": (replace(GOOD, placements=GOOD.placements * 2), "places the block head 2 times"),
    "a block of its own": (replace(GOOD, placements=(*GOOD.placements, Placement(
        replace(FIRST.block, name="mine"), "cpu"))), "places a block 'mine'"),
    "another order": (replace(GOOD, placements=GOOD.placements[::-1]), "another order"),
    "another size": (with_block(1, size_bytes=9), "with its bytes and parameters"),
    "other parameters": (with_block(1, parameters=("blocks.1.weight",)), "with its bytes and parameters"),
    "another kind": (with_block(0, kind=BlockKind.OTHER), "with its bytes and parameters"),
    "an unknown device": (with_placement(1, device="cuda:7"), "on 'cuda:7'; the devices are cpu, cuda:0, cuda:1"),
    "a device of another spelling": (with_placement(1, device="CUDA:0"), "on 'CUDA:0'"),
    "another compute device": (replace(GOOD, compute_device="cuda:1"), "computes on 'cuda:1', and the request says"),
    "a head on a donor": (with_placement(0, device="cuda:1", relayed=True), "places the head head on cuda:1"),
    "a relayed block on the cpu": (with_placement(3, relayed=True), "relays blocks.2 on cpu"),
    "a relayed block at home": (with_placement(1, relayed=True), "relays blocks.0 on cuda:0"),
    "relayed without relay": (replace(GOOD, strategy=Strategy.INTERLEAVE), "with the strategy interleave"),
    "relayed perhaps": (with_placement(2, relayed="yes"), "which is no bool"),
    "no strategy": (replace(GOOD, strategy="relay"), "which is no Strategy"),
    "negative staging": (replace(GOOD, staging_bytes=-1), "keeps -1 bytes for staging"),
    "staging that is no number": (replace(GOOD, staging_bytes=1.5), "keeps 1.5 bytes for staging"),
    "more staging than is free": (replace(GOOD, staging_bytes=986), "986 bytes for staging beside 15 bytes of blocks"),
    "work with a strategy that does not share it": (replace(GOOD, work_shares=HALVES), "with the strategy relay"),
    "work without the compute device": (shared(HALVES[1:]), "are not the compute device's and those of others"),
    "work for one device twice": (shared((*HALVES, HALVES[1])), "each once"),
    "work for the cpu": (shared((HALVES[0], WorkShare("cpu", 5))), "work to 'cpu', which is no accelerator"),
    "work that is no number": (shared((HALVES[0], WorkShare("cuda:1", "5"))), "'5' of the work"),  # type: ignore[arg-type]
    "work shares that are none": (shared(("cuda:0", "cuda:1")), "no tuple of WorkShare"),
    "warnings that are one text": (replace(GOOD, warnings="careful"), "no tuple of texts"),
    "a wish that is none": (replace(GOOD, wish=None), "a wish that is no text"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN_PLANS)
def test_a_plan_that_cannot_be_carried_out_is_refused_by_name_and_the_next_planner_answers(kind: str) -> None:
    plan, reason = BROKEN_PLANS[kind]
    manager = manager_of(good=lambda: GOOD, broken=lambda: plan)
    with structlog.testing.capture_logs() as logs:
        assert manager.plan_allocation(**SPLIT_ARGUMENTS) is GOOD
    assert reason in manager.records["broken"].why_not and manager.records["good"].works
    assert [(entry["plugin"], entry["reason"]) for entry in logs] == [("broken", manager.records["broken"].why_not)]


def test_a_plan_may_use_all_that_is_free_for_staging() -> None:
    most = replace(GOOD, staging_bytes=985)
    assert manager_of(exact=lambda: most).plan_allocation(**SPLIT_ARGUMENTS) is most


def test_a_replica_needs_as_much_room_as_the_compute_device() -> None:
    plan = replace(shared(HALVES), placements=ALL_ON_COMPUTE, staging_bytes=900)
    devices = [CPU, CARDS[0], replace(CARDS[1], free_bytes=940)]
    manager = manager_of(good=lambda: GOOD, broken=lambda: plan)
    manager.plan_allocation(**{**SPLIT_ARGUMENTS, "devices": devices})
    assert "of blocks on cuda:1, which has 940 free" in manager.records["broken"].why_not
    devices[2] = replace(CARDS[1], free_bytes=945)
    assert manager_of(right=lambda: plan).plan_allocation(**{**SPLIT_ARGUMENTS, "devices": devices}) is plan


def test_a_refusal_is_for_the_user_to_read() -> None:
    manager = manager_of(strict=raising(PlanError("cpu", 2, 1, "Buy memory.")))
    with pytest.raises(PlanError, match="Buy memory"):
        manager.plan_allocation(**ARGUMENTS)
    assert manager.records["strict"].works
