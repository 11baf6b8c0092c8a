"""Strategies register themselves; node, command line, settings and editor read their list."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from multigpu import hookimpl, hookspecs
from multigpu.api import AllocationRequest, Block, BlockKind, DeviceInfo, Inventory, Strategy
from multigpu.multigpu_core.allocation import AllocationMode, Share, plan_allocation
from multigpu.multigpu_core.cli.app import app
from multigpu.multigpu_core.plugins import Candidate, PluginManager
from multigpu.multigpu_core.plugins.strategies_of_plugins import strategies
from multigpu.multigpu_core.strategies.built_in import built_in_strategies
from multigpu.multigpu_core.strategies.strategy import UnknownStrategyError

ROOT = Path(__file__).parents[3]
NAMES = built_in_strategies().names
MODEL = Inventory(tuple(Block(f"b.{i}", BlockKind.TRANSFORMER, "float16", 10, (f"b.{i}.w",)) for i in range(4)))
DEVICES = [
    DeviceInfo(name, name[:4], None, name, 1000, free, can_pin_host_memory=True, has_streams=True)
    for name, free in (("cpu", 29), ("cuda:0", 1000))
]


def test_each_file_of_the_folder_is_a_strategy_and_the_default_comes_first() -> None:
    files = {file.stem for file in (ROOT / "multigpu_core/strategies/built_in").glob("*.py")} - {"__init__"}
    assert ["interleave", *sorted(files - {"interleave"})] == NAMES
    assert built_in_strategies().named("relay") == Strategy.RELAY and Strategy.RELAY.relays


def test_the_command_line_offers_every_strategy() -> None:
    for command in ("plan", "verify"):
        shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
        assert ", ".join(NAMES) in shown


def test_the_list_is_read_without_torch_and_no_other_is_kept_in_the_page_or_the_code() -> None:
    code = "import sys, multigpu.multigpu_core.strategies.built_in as s; s.built_in_strategies(); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    files = [*(ROOT / "web").glob("*.js"), *(ROOT / "multigpu_core").rglob("*.py")]
    texts = {file.name: file.read_text(encoding="utf-8") for file in files}
    assert not [name for name, text in texts.items() if all(f'"{each}"' in text for each in NAMES)]


def test_an_unknown_name_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(
        UnknownStrategyError, match="no strategy 'relais': it is one of interleave, contiguous, parallel, relay"
    ):
        built_in_strategies().named("relais")


def all_on_cpu(
    blocks: Sequence[Block], compute_device: str, target_bytes: Mapping[str, int], free_bytes: Mapping[str, int]
) -> list[str]:
    return ["cpu"] * len(blocks)


def all_kept(blocks: Sequence[Block], compute_device: str, *_: Any) -> list[str]:
    return [compute_device] * len(blocks)


def raising(*_: Any) -> list[str]:
    raise SystemExit("no")


def manager_of(**found: Strategy) -> PluginManager:
    def plugin(strategy: Strategy) -> object:
        class Plugin:
            @hookimpl
            def multigpu_strategies(self) -> list[Strategy]:
                return [strategy]

        return Plugin()

    manager = PluginManager(hookspecs)
    manager.register_all(
        Candidate(name, "a test", "1", lambda strategy=strategy: plugin(strategy)) for name, strategy in found.items()
    )
    return manager


def plan_with(strategy: Strategy) -> list[str]:
    shares = (Share("cuda:0", 50), Share("cpu", 50))
    request = AllocationRequest("cuda:0", AllocationMode.RATIO, shares, strategy=strategy)
    return [placement.device for placement in plan_allocation(MODEL, request, DEVICES).placements]


def test_a_plugins_strategy_is_offered_last_and_makes_the_plan() -> None:
    found = strategies(manager_of(mine=Strategy("mine", "offloads nothing", all_kept)))
    assert found.names == [*NAMES, "mine"]
    assert plan_with(found.named("mine")) == ["cuda:0"] * 4


def test_what_the_strategies_were_asked_as_an_enum_is_deprecated_and_still_answered() -> None:
    strategy: Any = Strategy
    with pytest.deprecated_call(match=r"Strategy\('relay'\) is deprecated: use Strategy.RELAY"):
        assert strategy("relay") is Strategy.RELAY
    with pytest.deprecated_call(match="use Strategy.INTERLEAVE, Strategy.CONTIGUOUS and Strategy.RELAY"):
        assert [each.name for each in strategy] == NAMES
    with pytest.deprecated_call(match=r"use Strategy.name"):
        assert strategy.RELAY.value == "relay"
    with pytest.deprecated_call(), pytest.raises(ValueError, match="There is no strategy 'fast'"):
        strategy("fast")


@pytest.mark.parametrize(
    ("assign", "reason"),
    [
        (raising, "no"),
        (lambda *_: ["cpu"], "names 1 devices for 4 blocks"),
        (lambda *_: ["npu:7"] * 4, "puts b.0 on 'npu:7'"),
        (lambda *_: ["cuda:0", "cpu", "cpu", "cpu"], "puts 30 bytes on cpu, which can take 29"),
    ],
    ids=["exits", "too few", "no device", "too full"],
)
def test_a_strategy_that_fails_is_reported_by_its_plugin_and_interleave_stands_in(
    assign: Callable[..., Any], reason: str
) -> None:
    plugins = manager_of(broken=Strategy("broken", "fails", assign), good=Strategy("good", "works", all_on_cpu))
    found = strategies(plugins)
    assert plan_with(found.named("broken")) == plan_with(Strategy.INTERLEAVE)
    assert reason in plugins.records["broken"].why_not and plugins.records["good"].works


@pytest.mark.parametrize("name", ["relay", "No name"])
def test_a_strategy_with_another_ones_name_or_none_is_left_out_with_its_plugin(name: str) -> None:
    plugins = manager_of(broken=Strategy(name, "works", all_on_cpu), good=Strategy("good", "works", all_on_cpu))
    assert strategies(plugins).names == [*NAMES, "good"]
    assert not plugins.records["broken"].works
