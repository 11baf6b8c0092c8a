"""The runner of the Makefile's stages: what it prints, also when a stage fails or is silent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / ".ci" / "stages.py"
MAKEFILE = """
first:
\t@echo this is the first
broken:
\t@echo before the end; exit 3
last:
\t@echo this is the last
silent:
\t@printf 'a line without an end'; read answer < answers; echo; echo answered $$answer
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "Makefile").write_text(MAKEFILE)
    return tmp_path


def run(folder: Path, *stages: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *stages]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def rows(output: str) -> dict[str, list[str]]:
    """The words after the name in each row of the table at the end."""
    return {name: rest for name, *rest in (line.split() for line in output.rpartition("\n\n")[2].splitlines())}


def test_every_stage_is_named_run_and_timed(folder: Path) -> None:
    done = run(folder, "first", "last")
    assert done.returncode == 0
    assert "== first\nthis is the first\n== last\nthis is the last\n" in done.stdout
    assert list(rows(done.stdout)) == ["first", "last", "together"]
    assert all(took[0].count(":") == 1 for took in rows(done.stdout).values())


def test_a_stage_that_fails_ends_the_run_and_the_table_says_what_was_not_run(folder: Path) -> None:
    done = run(folder, "first", "broken", "last")
    assert done.returncode == 2, "as make itself exits"
    assert "before the end" in done.stdout and "this is the last" not in done.stdout
    table = rows(done.stdout)
    assert table["broken"][1:] == ["failed,", "exit", "status", "2"]
    assert table["last"] == ["not", "run"] and len(table["first"]) == 1


def test_a_stage_that_prints_nothing_for_a_while_is_named_in_a_line_of_its_own(folder: Path) -> None:
    os.mkfifo(folder / "answers")
    command = [sys.executable, str(SCRIPT), "silent"]
    environment = {**os.environ, "STAGES_QUIET_SECONDS": "0.05"}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as stages:
        assert stages.stdout is not None
        shown = ""
        for line in stages.stdout:
            shown += line
            if "without an end" in shown and "is still running" in line:
                break
        (folder / "answers").write_text("at last\n")
        assert "answered at last" in stages.stdout.read()
    # The stage ended its line only when it was answered.
    assert "a line without an end\n... silent is still running, " in shown
    assert stages.returncode == 0
