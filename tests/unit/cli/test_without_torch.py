"""The command line where torch is not installed, as in a Python that is not ComfyUI's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from multigpu.multigpu_core.cli.app import main; main()"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [["devices"], ["plan", "model.safetensors"], ["profile"]])
def test_a_command_that_needs_torch_says_in_one_line_how_to_get_it(tmp_path: Path, arguments: list[str]) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "torch is not installed for" in done.stderr and "pytorch.org" in done.stderr


def test_doctor_reports_that_torch_is_missing_and_nothing_that_only_torch_knows(tmp_path: Path) -> None:
    (tmp_path / "models" / "checkpoints").mkdir(parents=True)
    (tmp_path / "models" / "checkpoints" / "model.safetensors").write_bytes(b"")
    done = run(tmp_path, "doctor", "--comfyui", str(tmp_path))
    assert done.returncode == 1 and not done.stderr
    assert done.stdout.count("torch is not installed for") == 1 and "no accelerator" not in done.stdout


def test_the_version_needs_no_torch(tmp_path: Path) -> None:
    assert run(tmp_path, "--version").stdout.startswith("multigpu ")
