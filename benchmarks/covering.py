"""A pytest plugin that records which tests run which lines, and how long each test takes.

The environment variable `MULTIGPU_COVERING` names the file that it writes; without it, nothing is recorded. What torch
compiles is run by nobody's Python, so a test that compiles counts as one that runs every line of the files it runs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import coverage
import pytest

VARIABLE = "MULTIGPU_COVERING"
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Covering:
    """Tests are named by their node ids, files by their paths in the checkout."""

    seconds: dict[str, float]
    """What each test takes of a core, its set-up included."""
    tests: dict[str, dict[int, list[str]]]
    """By file and line: the tests that run the line."""

    def of_lines(self, file: str, lines: Iterable[int] | None) -> list[str]:
        """Return the tests that run one of these lines, or any line if `lines` is None: the cheapest test file first,
        and in it the cheapest test."""
        by_line = self.tests.get(file, {})
        found = {test for line in (by_line if lines is None else lines) for test in by_line.get(line, ())}
        of_file: dict[str, float] = defaultdict(float)
        for test in found:
            of_file[_file(test)] += self.seconds[test]
        return sorted(found, key=lambda test: (of_file[_file(test)], _file(test), self.seconds[test], test))


def read(path: Path) -> Covering:
    """Read what a run of pytest with this plugin has recorded."""
    kept = json.loads(path.read_text())
    tests = {file: {int(line): ids for line, ids in lines.items()} for file, lines in kept["tests"].items()}
    return Covering(kept["seconds"], tests)


def _file(test: str) -> str:
    return test.partition("::")[0]


class Recorder:
    """Records until the session ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seconds: dict[str, float] = {}
        self._compiling: set[str] = set()
        self._coverage = coverage.Coverage(data_file=None, config_file=False, include=[f"{ROOT}/multigpu_core/*"])
        self._coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._coverage.switch_context(item.nodeid)
        began = time.process_time()
        try:
            return (yield)
        finally:
            self._seconds[item.nodeid] = time.process_time() - began

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        if dynamo := sys.modules.get("torch._dynamo.utils"):
            dynamo.counters.clear()
        try:
            return (yield)
        finally:
            dynamo = sys.modules.get("torch._dynamo.utils")
            if dynamo is not None and dynamo.counters["frames"]:
                self._compiling.add(item.nodeid)

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        data = self._coverage.get_data()
        tests = {}
        for file in data.measured_files():
            lines = data.contexts_by_lineno(file)
            compiling = self._compiling.intersection(chain.from_iterable(lines.values()))
            # What runs outside of any test has the context "".
            tests[str(Path(file).relative_to(ROOT))] = {
                line: sorted(filter(None, compiling.union(ids))) for line, ids in lines.items()
            }
        self._path.write_text(json.dumps({"seconds": self._seconds, "tests": tests}))


def pytest_configure(config: pytest.Config) -> None:
    if path := os.environ.get(VARIABLE):
        config.pluginmanager.register(Recorder(Path(path)))
