"""The benchmarks run, and those that count bytes keep their promises; times are for people to read."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def _records(name: str, *options: str) -> dict[str, dict[str, object]]:
    command = [sys.executable, "-m", "multigpu", "bench", name, "--json", *options]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode in (0, 1), run.stderr
    return {record["name"]: record for record in json.loads(run.stdout)}


@pytest.mark.parametrize("name", ["startup", "plan", "forward"])
def test_a_benchmark_prints_its_figures(name: str) -> None:
    records = _records(name)
    assert records
    assert all(isinstance(record["value"], (int, float)) for record in records.values())


def test_loading_keeps_within_its_bounds_and_leaves_nothing() -> None:
    records = _records("load")
    assert all(record["ratio"] <= 1 for record in records.values() if record["ratio"] is not None)  # type: ignore[operator]
    assert [record["value"] for name, record in records.items() if name.startswith("left on")] == [0, 0]


def test_made_up_input_raises_nothing_but_our_own_errors_and_leaves_nothing() -> None:
    records = _records("fuzz", "--strings", "600", "--files", "600", "--bodies", "200")
    assert all(record["ratio"] <= 1 for record in records.values() if record["ratio"] is not None)  # type: ignore[operator]
    assert sum(str(record["unit"]) == "cases" for record in records.values()) == 2 * 9


def test_keeping_the_diffusion_model_saves_half_of_all_reloads() -> None:
    records = _records("keep")
    assert sum(record["bound"] == 0.5 and record["ratio"] <= 1 for record in records.values()) == 2  # type: ignore[operator]


def test_a_dozen_prompts_with_all_that_users_do_leave_nothing_and_draw_the_same_pictures() -> None:
    records = _records("soak", "--prompts", "12", "--seed", "3")
    (held,) = [record["value"] for name, record in records.items() if "must be 0" in name]
    assert held == 0


def test_the_benchmarks_for_graphics_cards_run_and_find_equal_outputs() -> None:
    for name, options in (("gpu", ()), ("gpu_comfyui", ("--fractions", "0.5"))):
        records = _records(name, "--tiny", "--simulate", *options)
        differ = [record["value"] for what, record in records.items() if "differ" in what]
        assert differ, name
        assert not any(differ), name
