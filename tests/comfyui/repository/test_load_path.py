"""docs/architecture.md names every file that one split load passes through, and no other.

The files are those whose functions are called between a node's execution and the end of the first sampling. The
simulated accelerators and the test's own ComfyUI stand for hardware and host, and are left out.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from ..support.in_process import ComfyUI
from ..support.split_models import THIRDS, Sampler

HEADING = "## The files of one load"
STANDS_FOR_THE_MACHINE = ("multigpu_core/simulation/", "multigpu_core/provisioning/")
MOST_FILES = 93
"""As many as there are now: a load that passes through more is harder to follow. It may only get less."""


@contextmanager
def _entered_files(root: Path) -> Iterator[set[str]]:
    """The product's files, relative to `root`, whose functions are called inside the block, on any thread."""
    names: set[str] = set()
    files: set[str] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            names.add(frame.f_code.co_filename)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield files
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    product = (root / "multigpu_core", root / "integrations")
    paths = (Path(name) for name in names)
    found = {p.relative_to(root).as_posix() for p in paths if any(p.is_relative_to(folder) for folder in product)}
    files |= {name for name in found if not name.startswith(STANDS_FOR_THE_MACHINE)}


def _documented_files(repository: Path) -> list[str]:
    """The files that the section lists, in its order: one in backticks at the beginning of each table row."""
    page = (repository / "docs" / "architecture.md").read_text()
    section = page.partition(HEADING)[2].partition("\n## ")[0]
    return [f"multigpu_core/{name}" for name in re.findall(r"^\| `([\w/]+\.py)` \|", section, re.MULTILINE)]


@pytest.fixture
def passed_files(comfyui: ComfyUI, repository: Path) -> set[str]:
    sampler = Sampler(comfyui, "flux")
    sampler.picture(sampler.split(**THIRDS))  # what happens once in a process, as reading the profile, is no part of it
    with _entered_files(repository) as files:
        sampler.picture(sampler.split(**THIRDS))
    return files


def test_the_architecture_page_lists_exactly_the_files_that_a_load_passes_through(
    passed_files: set[str], repository: Path
) -> None:
    documented = _documented_files(repository)
    assert len(documented) == len(set(documented)), "each file has one row"
    lacking, unused = passed_files - set(documented), set(documented) - passed_files
    assert (lacking, unused) == (set(), set()), "passed through but not listed, listed but not passed through"


def test_a_load_passes_through_no_more_files_than_before(passed_files: set[str]) -> None:
    assert len(passed_files) <= MOST_FILES


@pytest.mark.parametrize("where", ["this thread", "another"])
def test_calls_are_noticed_on_every_thread(repository: Path, where: str) -> None:
    from multigpu.multigpu_core.allocation import readable_bytes

    def call(function: Callable[[], object]) -> None:
        if where == "this thread":
            function()
            return
        thread = threading.Thread(target=function)
        thread.start()
        thread.join()

    with _entered_files(repository) as files:
        call(lambda: readable_bytes(1))
    assert files == {"multigpu_core/allocation/language/amounts.py"}
