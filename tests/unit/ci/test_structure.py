"""Folders, files and functions that grow too large are named, with what to do."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / ".ci" / "structure.py"


@pytest.fixture(scope="module")
def structure() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with one folder of modules that are all within the limits."""
    folder = tmp_path / "multigpu_core" / "devices"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    for number in range(16):
        (folder / f"module_{number}.py").write_text("def short() -> None:\n" + "    pass\n" * 59)
    return folder


def test_what_is_within_the_limits_is_not_named(structure: dict[str, Any], folder: Path) -> None:
    assert structure["broken_limits"](folder.parents[1]) == []
    assert structure["files_by_folder"](folder.parents[1]) == {"multigpu_core/devices": 16}


def test_a_folder_with_one_file_more_is_named(structure: dict[str, Any], folder: Path) -> None:
    (folder / "module_16.py").touch()
    (sentence,) = structure["broken_limits"](folder.parents[1])
    assert sentence.startswith("multigpu_core/devices has 17 files")


def test_a_long_file_and_a_long_function_are_named(structure: dict[str, Any], folder: Path) -> None:
    (folder / "module_0.py").write_text("a = 1\n" * 340 + "async def long() -> None:\n" + "    pass\n" * 60)
    file, function = structure["broken_limits"](folder.parents[1])
    assert "module_0.py has 401 lines" in file
    assert "module_0.py: long has 61 lines" in function
