"""An outsider's plugin: written by our own command, installed by pip, found, and working."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from multigpu.multigpu_core.cli.app import app
from multigpu.multigpu_core.cli.new_integration import package_files
from multigpu.multigpu_core.provisioning.release import comfyui_folder

EXAMPLE = Path(__file__).parents[2] / "examples" / "third_party_plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example installed in it, as site-packages would have it."""
    folder = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source")
    for file in EXAMPLE.iterdir():
        if file.is_file():
            (source / file.name).write_bytes(file.read_bytes())
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*command, str(folder), str(source)], check=True, capture_output=True)
    return folder


def _python_path(installed: Path) -> str:
    """The installed plugin, and where this process found MultiGPU."""
    return os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])


def test_the_example_is_what_the_command_writes() -> None:
    for name, text in package_files("example").items():
        assert (EXAMPLE / name).read_text(encoding="utf-8") == text


def test_an_installed_plugin_is_found_with_its_distribution_and_version(installed: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": _python_path(installed)}
    command = [sys.executable, "-m", "multigpu", "plugins", "--json"]
    run = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    record = {record["name"]: record for record in json.loads(run.stdout)}["example"]
    assert (record["source"], record["version"], record["works"]) == ("multigpu-example", "0.1.0", True)


def test_an_installed_plugin_is_switched_off_and_configured_by_a_file(installed: Path, tmp_path: Path) -> None:
    for text, works in (("[integrations]\nexample = false", False), ("[integrations.example]\nmore_loader = []", True)):
        (tmp_path / "plugins.toml").write_text(text)
        environment = {
            **os.environ,
            "PYTHONPATH": _python_path(installed),
            "MULTIGPU_PLUGINS": str(tmp_path / "plugins.toml"),
        }
        command = [sys.executable, "-m", "multigpu", "plugins"]
        as_json = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True, check=True)
        record = {record["name"]: record for record in json.loads(as_json.stdout)}["example"]
        assert record["works"] is works
        if works:
            table = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
            assert "did you mean more_loaders" in " ".join(table.split())


def test_the_example_passes_its_own_tests_in_a_real_comfyui(installed: Path, tmp_path: Path) -> None:
    for file in ("conftest.py", "test_multigpu_example.py"):
        (tmp_path / file).write_bytes((EXAMPLE / file).read_bytes())
    environment = {**os.environ, "PYTHONPATH": _python_path(installed), "COMFYUI_PATH": str(comfyui_folder())}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_multigpu_example.py"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert run.returncode == 0, run.stdout


def test_what_the_command_says_to_install_is_the_folder_and_no_project_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(app, ["new-integration", "mine"]).stdout
    to_install = told.strip().rpartition("pip install ")[2]
    assert os.path.dirname(to_install) and Path(to_install).is_dir()


def test_a_name_that_is_none_and_a_folder_that_is_full_are_refused(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["new-integration", "My Pack"]).exit_code == 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    result = CliRunner().invoke(app, ["new-integration", "mine", "--directory", str(tmp_path / "full")])
    assert result.exit_code == 2 and "not empty" in result.output
