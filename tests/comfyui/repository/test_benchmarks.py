"""The benchmarks run, and those that count bytes keep their promises; times are for people to read.

Here each runs once, as briefly as it can. `make test-long` runs them as they are.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

LONG = pytest.mark.long


def _records(name: str, *options: str) -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-m", "multigpu", "bench", name, "--json", *options]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode in (0, 1), run.stderr
    return {record["name"]: record for record in json.loads(run.stdout)}


def _bounds_are_kept(records: dict[str, dict[str, Any]]) -> None:
    """Those of bytes and counts: what takes how long depends on the machine."""
    bounded = [each for each in records.values() if each["ratio"] is not None and not each["unit"].startswith("s")]
    assert bounded and all(each["ratio"] <= 1 for each in bounded), bounded


@pytest.mark.parametrize("line", ["startup", "plan", "forward --quick", pytest.param("forward", marks=LONG)])
def test_a_benchmark_prints_its_figures(line: str) -> None:
    records = _records(*line.split())
    assert records
    assert all(isinstance(record["value"], (int, float)) for record in records.values())


@pytest.mark.parametrize("options", [["--quick"], pytest.param([], marks=LONG)])
def test_loading_keeps_within_its_bounds_and_leaves_nothing(options: list[str]) -> None:
    records = _records("load", *options)
    _bounds_are_kept(records)
    assert [record["value"] for name, record in records.items() if name.startswith("left on")] == [0, 0]


@pytest.mark.parametrize("scale", [1, pytest.param(300, marks=LONG)])
def test_made_up_input_raises_nothing_but_our_own_errors_and_leaves_nothing(scale: int) -> None:
    cases = {"--strings": 300 * scale, "--files": 300 * scale, "--bodies": 60 * scale}
    records = _records("fuzz", *(str(part) for pair in cases.items() for part in pair))
    _bounds_are_kept(records)
    assert sum(str(record["unit"]) == "cases" for record in records.values()) == 2 * 9


@pytest.mark.parametrize("options", [["--quick"], pytest.param([], marks=LONG)])
def test_keeping_the_diffusion_model_saves_half_of_all_reloads(options: list[str]) -> None:
    records = _records("keep", *options)
    assert sum(record["bound"] == 0.5 and record["ratio"] <= 1 for record in records.values()) == 2


@pytest.mark.parametrize("prompts", [6, pytest.param(300, marks=LONG)])
def test_prompts_with_all_that_users_do_leave_nothing_and_draw_the_same_pictures(prompts: int) -> None:
    records = _records("soak", "--prompts", str(prompts), "--seed", "3")
    (held,) = [record["value"] for name, record in records.items() if "must be 0" in name]
    assert held == 0


def test_the_benchmarks_for_graphics_cards_run_and_find_equal_outputs() -> None:
    for name in ("gpu", "gpu_comfyui"):
        records = _records(name, "--tiny", "--simulate", "--fractions", "0.5")
        differ = [record["value"] for what, record in records.items() if "differ" in what]
        assert differ, name
        assert not any(differ), name
