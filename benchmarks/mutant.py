"""A pytest plugin that gives one module another source.

The environment variable `MULTIGPU_MUTANT` holds the module's name, "=" and the file to read instead.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

VARIABLE = "MULTIGPU_MUTANT"


class MutantFinder(MetaPathFinder):
    """Finds one module in a file of its own, and no other."""

    def __init__(self, module: str, file: str) -> None:
        self._module = module
        self._file = file

    def find_spec(self, fullname: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return importlib.util.spec_from_file_location(fullname, self._file) if fullname == self._module else None


def pytest_configure() -> None:
    module, _, file = os.environ[VARIABLE].partition("=")
    if module in sys.modules:
        raise RuntimeError(f"{module} was imported before its mutant could take its place: nothing would be tested.")
    sys.meta_path.insert(0, MutantFinder(module, file))
