"""Whatever is typed wrong, a command says what is wrong and exits with 2; no user sees a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from multigpu.multigpu_core.cli.app import app
from multigpu.multigpu_core.devices import HardwareProfile
from multigpu.multigpu_core.devices.speeds import profile_cache
from multigpu.multigpu_core.provisioning import tiny_models

WRONG = {
    "a folder that is none": (["plugins", "--custom-nodes", "nowhere"], "does not exist"),
    "a user folder that is a file": (["plugins", "--user-directory", "{file}"], "is a file"),
    "a ComfyUI that is a file": (["doctor", "--comfyui", "{file}"], "is a file"),
    "a plugin name with a digit in front": (["new-integration", "9lives"], "is not a plugin name"),
    "a plugin named as one of ours": (["new-integration", "gguf"], "is a plugin of MultiGPU's own"),
    "a plugin into a file": (["new-integration", "mine", "--directory", "{file}"], "Choose a writable folder"),
    "a demo into a file": (["demo", "--directory", "{file}"], "Choose a writable folder"),
    "no steps": (["demo", "--steps", "0"], "--steps"),
    "a benchmark that is none": (["bench", "speed"], "speed"),
    "a command that is none": (["devises"], "devises"),
    "no file to plan": (["plan"], "file"),
}


@pytest.mark.parametrize("slip", WRONG)
def test_a_slip_is_told_and_exits_with_2(slip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    file = tmp_path / "file"
    file.write_text("nothing")
    command, told = WRONG[slip]
    result = CliRunner().invoke(app, [word.format(file=file) for word in command])
    assert result.exit_code == 2 and told in result.output, result.output
    assert "Traceback" not in result.output


def test_what_is_wrong_with_a_demo_is_told_on_standard_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("nothing")
    result = CliRunner().invoke(app, ["demo", "--directory", str(file)])
    assert "error: " in result.stderr and not result.stdout


def test_simulated_cards_that_cannot_be_read_are_refused_with_an_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTIGPU_SIMULATE", "2xx")
    run = CliRunner().invoke(app, ["devices"])
    assert run.exit_code == 2 and "2x8gb" in run.stderr and "Traceback" not in run.stderr


def test_a_profile_that_cannot_be_kept_says_where_it_could_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MULTIGPU_PROFILE", str(tmp_path / "file" / "profile.json"))
    monkeypatch.setattr(profile_cache, "measure_profile", lambda registry, progress: HardwareProfile({}, {}))
    run = CliRunner().invoke(app, ["profile"])
    assert run.exit_code == 2 and "MULTIGPU_PROFILE" in run.stderr and "Traceback" not in run.output


@pytest.mark.parametrize(
    "command", ["devices", "profile", "plan", "verify", "doctor", "demo", "bench", "plugins", "new-integration"]
)
def test_the_help_of_every_command_names_its_exit_codes(command: str) -> None:
    assert "Exit 0" in CliRunner().invoke(app, [command, "--help"]).output


@pytest.mark.parametrize("command", ["devices", "profile", "plan", "verify", "doctor", "bench", "plugins"])
def test_every_command_that_reports_can_do_so_as_json(command: str) -> None:
    assert "--json" in CliRunner().invoke(app, [command, "--help"]).output


def test_a_warning_of_the_log_is_not_in_the_midst_of_json(tmp_path: Path) -> None:
    (tmp_path / "profile.json").write_text("no profile")
    model = tiny_models.write(tmp_path / "flux.safetensors", tiny_models.flux_weights())
    environment = {**os.environ, "MULTIGPU_PROFILE": str(tmp_path / "profile.json")}
    command = [sys.executable, "-m", "multigpu", "plan", str(model), "--json"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert json.loads(run.stdout)["fits"] and "profile.json cannot be read" in run.stderr


def test_simulated_cards_are_not_measured() -> None:
    environment = {**os.environ, "MULTIGPU_SIMULATE": "1gb"}
    command = [sys.executable, "-m", "multigpu", "profile"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 2 and "no speed to measure" in run.stderr
