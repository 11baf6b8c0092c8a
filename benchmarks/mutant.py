"""A pytest plugin that gives one module another source, and runs few cases of each test, always the same.

The environment variable `MULTIGPU_MUTANT` holds the module's name, "=" and the file to read instead; without it, no
module gets another source. `MULTIGPU_MUTANT_TESTS` names a file with the node ids of the tests to run, one a line, in
their order; without it, of a test with many parameters cases from all over its list are run. `PROFILE` is a hypothesis
profile of few examples.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from itertools import zip_longest
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

VARIABLE = "MULTIGPU_MUTANT"
TESTS_VARIABLE = "MULTIGPU_MUTANT_TESTS"
PROFILE = "mutant"
MOST_CASES = 6
"""Of one test function."""

# A failing example need not be made small, nor kept: the code under test is not the real one.
hypothesis.settings.register_profile(
    PROFILE,
    deadline=None,
    max_examples=4,
    derandomize=True,
    database=None,
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
)


class MutantFinder(MetaPathFinder):
    """Finds one module in a file of its own, and no other."""

    def __init__(self, module: str, file: str) -> None:
        self._module = module
        self._file = file

    def find_spec(self, fullname: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return importlib.util.spec_from_file_location(fullname, self._file) if fullname == self._module else None


def pytest_configure() -> None:
    module, _, file = os.environ.get(VARIABLE, "").partition("=")
    if not module:
        return
    if module in sys.modules:
        raise RuntimeError(f"{module} was imported before its mutant could take its place: nothing would be tested.")
    sys.meta_path.insert(0, MutantFinder(module, file))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    file = os.environ.get(TESTS_VARIABLE)
    kept = _named(items, Path(file).read_text().splitlines()) if file else _few_cases(items)
    dropped = set(items) - set(kept)
    config.hook.pytest_deselected(items=[item for item in items if item in dropped])
    items[:] = kept


def _named(items: list[pytest.Item], names: list[str]) -> list[pytest.Item]:
    by_name = {item.nodeid: item for item in items}
    if gone := [name for name in names if name not in by_name]:
        raise pytest.UsageError(f"Tests to run that are not there: {', '.join(gone)}. Were they changed meanwhile?")
    return [by_name[name] for name in names]


def _few_cases(items: list[pytest.Item]) -> list[pytest.Item]:
    """Few cases of each test: one case of every test comes before the second of any, since errors show early."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    rounds = [_spread(of_one) for of_one in cases.values()]
    return [item for turn in zip_longest(*rounds) for item in turn if item is not None]


def _spread(cases: list[pytest.Item]) -> list[pytest.Item]:
    count = min(len(cases), MOST_CASES)
    return [cases[index * (len(cases) - 1) // max(count - 1, 1)] for index in range(count)]
