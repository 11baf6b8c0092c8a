"""`multigpu plugins`: what is found, whether it works, and an exit code that says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from multigpu.multigpu_core.cli.app import app
from multigpu.multigpu_core.plugins import built_in

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from multigpu.multigpu_core.cli.app import main
main()
"""


@pytest.fixture
def custom_nodes(tmp_path: Path) -> Path:
    pack = tmp_path / "custom_nodes" / "broken pack"
    pack.mkdir(parents=True)
    (pack / "multigpu_plugin.py").write_text("import no_such_module")
    return pack.parent


def test_all_our_integrations_are_listed_as_working_and_torch_is_not_needed() -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, "plugins", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    works = {record["name"]: record["works"] for record in json.loads(run.stdout)}
    assert {candidate.name: True for candidate in built_in()}.items() <= works.items()


def test_a_plugin_that_cannot_be_used_is_shown_with_its_reason_and_the_command_fails(custom_nodes: Path) -> None:
    result = CliRunner().invoke(app, ["plugins", "--custom-nodes", str(custom_nodes)])
    assert result.exit_code == 1
    assert "no_such_module" in result.output and "broken pack" in result.output


def test_what_is_wrong_in_the_user_s_file_is_shown(tmp_path: Path) -> None:
    (tmp_path / "multigpu").mkdir()
    (tmp_path / "multigpu" / "plugins.toml").write_text("[integrations]\ncomfy_cor = false\n")
    result = CliRunner().invoke(app, ["plugins", "--user-directory", str(tmp_path)])
    assert result.exit_code == 0
    assert "did you mean comfy_core" in " ".join(result.output.split())


def test_the_packs_that_are_there_are_shown_with_their_versions(custom_nodes: Path) -> None:
    pack = custom_nodes / "comfyui-gguf"
    pack.mkdir()
    (pack / "pyproject.toml").write_text('[project]\nversion = "2.0.0"\n')
    result = CliRunner().invoke(app, ["plugins", "--json", "--custom-nodes", str(custom_nodes)])
    targets = {record["name"]: record["targets"] for record in json.loads(result.output)}
    assert targets["gguf"] == [{"name": "comfyui-gguf", "version": "2.0.0", "state": "present"}]
    assert targets["florence2"][0]["state"] == "absent"


def test_control_characters_in_the_name_of_a_plugin_do_not_reach_the_terminal(tmp_path: Path) -> None:
    pack = tmp_path / "custom_nodes" / "red\x1b[31m\rpack"
    pack.mkdir(parents=True)
    (pack / "multigpu_plugin.py").write_text("raise RuntimeError('\\x1b[2J')")
    result = CliRunner().invoke(app, ["plugins", "--custom-nodes", str(pack.parent)])
    assert result.exit_code == 1 and not {"\x1b", "\r"} & set(result.output)
    assert r"\x1b[2J" in result.output
