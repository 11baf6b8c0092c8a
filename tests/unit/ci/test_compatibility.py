"""The script that runs the tests on another ComfyUI: what it installs for it, counts, and writes into the page."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / ".ci" / "compatibility.py"
RESULTS = """<testsuites><testsuite>
<testcase classname="tests.comfyui.split.test_one" name="a"/>
<testcase classname="tests.comfyui.split.test_one" name="b"><skipped/></testcase>
<testcase classname="tests.comfyui.nodes.test_two" name="c"><failure/></testcase>
<testcase classname="tests.comfyui.conformance.test_three" name="d"/>
<testcase classname="tests.comfyui.host.test_four" name="e"><error/></testcase>
</testsuite></testsuites>"""


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_only_packages_that_are_not_installed_as_required_are_installed(script: dict[str, Any]) -> None:
    text = "comfy-aimdo==0.4.13\ncomfy_kitchen>=0.2.8  # any\nrequests\n\n--extra-index-url x\nnew_one~=1.0\n"
    installed = {"comfy-aimdo": "0.4.11", "comfy-kitchen": "0.2.26", "requests": "2.0"}
    assert script["unsatisfied"](script["requirements"](text), installed) == ["comfy-aimdo==0.4.13", "new_one~=1.0"]


def test_what_is_installed_is_found_by_the_name_that_requirements_have(script: dict[str, Any]) -> None:
    assert "pytest-xdist" in script["installed_in"]()


def test_tests_are_counted_by_column(script: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "results.xml").write_text(RESULTS)
    row = script["row"]("1.2.3", "comfy-aimdo 9.9.9", "2026-01-31", script["outcomes"](tmp_path / "results.xml"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:5] == ["1.2.3", "comfy-aimdo 9.9.9", "2026-01-31", "1 passed, 1 skipped", "1 passed, 1 failed"]
    assert cells[5:] == ["not run", "not run", "not run", "1 failed", "not run"]


def test_a_row_replaces_that_of_its_version_and_all_are_in_order(script: dict[str, Any]) -> None:
    heading = script["HEADING"]
    page = f"before\n\n{heading}\n|---|\n| 0.30.0 | old |\n| 0.9.1 | kept |\n\n| 0.30.0 | another table |\n"
    page = script["with_row"](script["with_row"](page, "| 0.30.0 | new |"), "| 0.33.0 | newest |")
    rows = "| 0.33.0 | newest |\n| 0.30.0 | new |\n| 0.9.1 | kept |\n"
    assert page == f"before\n\n{heading}\n|---|\n{rows}\n| 0.30.0 | another table |\n"


def test_the_page_has_the_table(script: dict[str, Any]) -> None:
    page = script["PAGE"].read_text(encoding="utf-8")
    assert "| 99.0 | new |" in script["with_row"](page, "| 99.0 | new |")


def test_every_folder_of_tests_is_counted_or_is_not_about_another_comfyui(script: dict[str, Any]) -> None:
    counted = {folder for folders in script["COLUMNS"].values() for folder in folders}
    folders = {path.parent.name for path in (ROOT / "tests" / "comfyui").glob("*/test_*.py")}
    assert folders - counted == {"page", "provisioning", "repository"} and counted <= folders


@pytest.mark.parametrize(("content", "said"), [(None, "no comfyui_version.py"), ("x = 1", "states no version")])
def test_a_folder_without_a_comfyui_is_named(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "comfyui_version.py").write_text(content)
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and str(tmp_path) in done.stderr and said in " ".join(done.stderr.split())
