"""Plans that plugins make: the last registered is asked first, and a broken planner spoils no load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from multigpu import hookimpl, hookspecs
from multigpu.multigpu_core.allocation import AllocationPlan, AllocationRequest, Block, BlockKind, Inventory, PlanError
from multigpu.multigpu_core.devices import DeviceInfo
from multigpu.multigpu_core.plugins import Candidate, PluginManager
from multigpu.multigpu_core.plugins.defaults import DefaultPlanner

MODEL = Inventory(
    tuple(Block(f"blocks.{i}", BlockKind.TRANSFORMER, "bfloat16", 10, (f"blocks.{i}.weight",)) for i in range(4))
)
CPU = DeviceInfo("cpu", "cpu", None, "cpu", 1000, 1000, can_pin_host_memory=False, has_streams=False)
REQUEST = AllocationRequest("cpu")
ARGUMENTS = {"inventory": MODEL, "request": REQUEST, "devices": [CPU], "reserve_bytes": {}, "profile": None}
Plan = Callable[[], Any]


def planner(plan: Plan) -> object:
    class Planner:
        @hookimpl
        def multigpu_plan_allocation(self) -> Any:
            return plan()

    return Planner()


def default_plan() -> AllocationPlan:
    return DefaultPlanner().multigpu_plan_allocation(**ARGUMENTS)


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
        lambda: "cpu,*",
        lambda: replace(default_plan(), placements=default_plan().placements[1:]),
        lambda: replace(default_plan(), placements=default_plan().placements * 2),
    ],
    ids=["raises", "exits", "no plan", "forgets a block", "places blocks twice"],
)
def test_a_planner_that_fails_is_reported_and_the_model_still_loads(broken: Plan) -> None:
    manager = manager_of(broken=broken)
    assert manager.plan_allocation(**ARGUMENTS) == default_plan()
    assert not manager.records["broken"].works and manager.records["broken"].traceback
    assert manager.plan_allocation(**ARGUMENTS) == default_plan(), "and it is not asked again"


def test_a_refusal_is_for_the_user_to_read() -> None:
    manager = manager_of(strict=raising(PlanError("cpu", 2, 1, "Buy memory.")))
    with pytest.raises(PlanError, match="Buy memory"):
        manager.plan_allocation(**ARGUMENTS)
    assert manager.records["strict"].works
