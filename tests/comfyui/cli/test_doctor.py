"""`multigpu doctor` imports the ComfyUI that it is about, and names the feature that is off there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def _findings(comfyui: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "multigpu", "doctor", "--json", "--comfyui", str(comfyui)]
    found: list[dict[str, Any]] = json.loads(subprocess.run(command, capture_output=True, check=False).stdout)
    return found


@pytest.fixture
def copy(comfyui_path: Path, tmp_path: Path) -> Path:
    """A ComfyUI that a test may change."""
    return shutil.copytree(comfyui_path, tmp_path / "ComfyUI", ignore=shutil.ignore_patterns("__pycache__", ".git"))


def test_a_comfyui_in_which_our_tests_passed_has_all_that_we_build_on(comfyui_path: Path) -> None:
    told = [finding["what"] for finding in _findings(comfyui_path)]
    assert not any("Off in this ComfyUI" in what or "cannot be imported" in what for what in told)
    assert not any("no function" in what or "without a result" in what for what in told)


def test_a_comfyui_that_has_changed_has_its_missing_feature_named(copy: Path) -> None:
    controlnet = copy / "comfy" / "controlnet.py"
    controlnet.write_text(
        controlnet.read_text().replace("def get_control(self, x_noisy, t, cond", "def get_control(self, x, t, cond")
    )
    (problem,) = [finding for finding in _findings(copy) if finding["severity"] == "problem"]
    assert "Off in this ComfyUI: ControlNets and model patches" in problem["what"]
    assert "takes no x_noisy" in problem["what"]


def test_a_comfyui_that_cannot_be_imported_says_why(copy: Path) -> None:
    nodes = copy / "nodes.py"
    nodes.write_text(nodes.read_text() + "\nimport no_such_requirement\n")  # the first line may be from __future__
    (told,) = [finding["what"] for finding in _findings(copy) if "without a result" in finding["what"]]
    assert "No module named 'no_such_requirement'" in told and "Install what is missing" in told
