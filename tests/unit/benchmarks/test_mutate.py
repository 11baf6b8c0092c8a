"""Trying mutations: which files and tests take part, what each costs, and how a run that cannot go on ends."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

MODULES_OF_COMFYUI = {"patcher", "weight_patches", "placement"}


@pytest.fixture
def mutate(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    return importlib.import_module("mutate")


@pytest.fixture
def covering(mutate: ModuleType) -> ModuleType:
    return importlib.import_module("covering")


@pytest.fixture
def mutation(mutate: ModuleType) -> Any:
    """One of a module that unit tests run."""
    found = mutate.mutations_of(mutate.CORE / "execution" / "step_record.py")
    return next(each for each in found if each.function == "StepRecord.entered")


def test_every_module_that_moves_weights_or_applies_loras_is_mutated(mutate: ModuleType, repository: Path) -> None:
    files = {path.relative_to(mutate.CORE) for path in mutate.MUTATED}
    execution = {path.relative_to(mutate.CORE) for path in (mutate.CORE / "execution").rglob("*.py")}
    assert files == execution | {Path(f"comfy/split/{name}.py") for name in MODULES_OF_COMFYUI}
    assert {file.parent.name for file in files} >= {"execution", "relay", "streaming", "storage", "parallel", "split"}
    for file in files:
        assert (mutate.CORE / file).is_file()


def test_the_tests_that_are_run_exist(mutate: ModuleType, repository: Path) -> None:
    for suite in mutate.SUITES:
        assert suite.paths
        for path in suite.paths:
            assert (repository / path).exists(), f"the {suite.name} tests name {path}, which is not there"


def test_every_explanation_is_of_a_mutation_that_there_is(mutate: ModuleType) -> None:
    keys = {mutate.key_of(mutation) for path in mutate.MUTATED for mutation in mutate.mutations_of(path)}
    assert set(mutate.explanations()) <= keys


def test_no_two_mutations_share_a_key(mutate: ModuleType) -> None:
    """One explanation therefore never hides a second mutation, of the same words on another line."""
    keys = [mutate.key_of(mutation) for path in mutate.MUTATED for mutation in mutate.mutations_of(path)]
    assert len(keys) == len(set(keys))


def test_the_key_does_not_change_when_lines_are_added_above(mutate: ModuleType, mutation: Any) -> None:
    moved = replace(mutation, lines=range(mutation.lines.start + 5, mutation.lines.stop + 5), begin=mutation.begin + 90)
    assert mutate.key_of(moved) == mutate.key_of(mutation)


def test_only_tests_that_run_the_line_are_run_and_the_cheapest_file_first(
    mutate: ModuleType, mutation: Any, covering: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, file = mutation.lines.start, "multigpu_core/execution/step_record.py"
    seconds = {"dear::a": 3.0, "dear::b": 0.1, "cheap::c": 0.9, "cheap::d": 0.5, "other::e": 0.01}
    tests = {file: {line: ["dear::a", "dear::b", "cheap::c", "cheap::d"], line + 1: ["other::e"]}}
    ran: list[Sequence[str]] = []
    monkeypatch.setattr(mutate, "_recorded", lambda suite: covering.Covering(seconds, tests))
    monkeypatch.setattr(mutate, "_notices", lambda mutation, names: bool(ran.append(names)) or True)
    [outcome] = mutate.outcomes([mutation], jobs=1)
    assert ran == [["cheap::d", "cheap::c", "dear::b", "dear::a"]]
    assert outcome.noticed_by == "unit"


def test_what_runs_when_the_module_is_imported_concerns_all_tests_of_the_module(
    mutate: ModuleType, covering: ModuleType
) -> None:
    recorded = covering.Covering({"x::a": 1.0, "y::b": 2.0}, {"file.py": {1: [], 5: ["x::a"], 9: ["y::b", "x::a"]}})
    assert recorded.of_lines("file.py", None) == ["x::a", "y::b"]
    assert recorded.of_lines("file.py", range(1, 2)) == []


def test_a_line_that_no_test_runs_is_unnoticed_at_once(
    mutate: ModuleType, mutation: Any, covering: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutate, "_recorded", lambda suite: covering.Covering({}, {}))
    monkeypatch.setattr(mutate, "_run", lambda *_: pytest.fail("a test was run"))
    [outcome] = mutate.outcomes([mutation], jobs=1)
    assert (outcome.noticed_by, outcome.remark) == ("", "No test runs this.")


def test_an_explained_mutation_is_not_tried_and_counts_as_noticed_by_no_test(
    mutate: ModuleType, mutation: Any, covering: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutate, "explanations", lambda: {mutate.key_of(mutation): "It is so."})
    monkeypatch.setattr(mutate, "_recorded", lambda suite: covering.Covering({}, {}))
    monkeypatch.setattr(mutate, "_run", lambda *_: pytest.fail("a test was run"))
    done = list(mutate.outcomes([mutation], jobs=1))
    figures = {record.name: record.value for record in mutate.report_of(done)}
    assert figures["no behaviour changed, as explained"] == figures["noticed by no test, explained or not"] == 1


def test_tests_that_do_not_end_without_a_mutation_are_reported_in_one_line(
    mutate: ModuleType, mutation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never_ends(command: Sequence[str], *, timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", never_ends)
    with pytest.raises(SystemExit) as caught:
        list(mutate.outcomes([mutation], jobs=1))
    assert caught.value.code == "The unit tests do not end in 1800 s, without any mutation."


def test_a_run_that_is_no_run_of_the_tests_does_not_count_as_noticed(
    mutate: ModuleType, mutation: Any, covering: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = subprocess.CompletedProcess([], pytest.ExitCode.USAGE_ERROR, "", "no such test")
    monkeypatch.setattr(mutate, "_run", lambda *_: refused)
    with pytest.raises(SystemExit, match="no such test"):
        mutate._notices(mutation, ["x::a"])


TESTS = """
from multigpu.multigpu_core import bounded_json

def test_lists(): assert bounded_json.parse_json(b"[1]") == [1]

def test_depths(): assert bounded_json.depth_of(b"[[]]") == 2

def test_nothing(): pass
"""
"""What they import needs no torch, so that each run of them takes a second."""


def test_a_mutant_is_tried_with_the_tests_that_were_seen_to_run_the_line(
    mutate: ModuleType, covering: ModuleType, repository: Path, tmp_path: Path
) -> None:
    file = "multigpu_core/bounded_json.py"
    test_file = tmp_path / "test_json.py"
    test_file.write_text(TESTS)

    def run(**variables: Path | str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": str(repository / "benchmarks"),
            **{name: str(value) for name, value in variables.items()},
        }
        plugins = ("-p", "mutant", "-p", "covering", "-p", "no:cacheprovider")
        command = [sys.executable, "-m", "pytest", "-v", "--rootdir", str(tmp_path), *plugins, test_file.name]
        return subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True)

    assert run(**{covering.VARIABLE: tmp_path / "covering.json"}).returncode == 0
    recorded = covering.read(tmp_path / "covering.json")
    source = (repository / file).read_text()
    line = source.splitlines().index('    decoded = text.decode("utf-8")') + 1
    assert recorded.of_lines(file, [line]) == ["test_json.py::test_lists"]
    assert set(recorded.of_lines(file, None)) == {"test_json.py::test_lists", "test_json.py::test_depths"}
    assert all(seconds >= 0 for seconds in recorded.seconds.values()) and len(recorded.seconds) == 3

    (tmp_path / "bounded_json.py").write_text(source.replace('decoded = text.decode("utf-8")', 'decoded = "[2]"'))
    (tmp_path / "tests").write_text("test_json.py::test_lists")
    mutant = importlib.import_module("mutant")
    module = f"multigpu.multigpu_core.bounded_json={tmp_path / 'bounded_json.py'}"
    tried = run(**{mutant.VARIABLE: module, mutant.TESTS_VARIABLE: tmp_path / "tests"})
    assert tried.returncode == 1, tried.stdout + tried.stderr
    assert "test_lists FAILED" in tried.stdout and "test_depths" not in tried.stdout

    (tmp_path / "tests").write_text("test_json.py::test_gone")
    assert run(**{mutant.TESTS_VARIABLE: tmp_path / "tests"}).returncode == pytest.ExitCode.USAGE_ERROR
