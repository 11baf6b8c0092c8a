"""`multigpu devices`, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys

from typer.testing import CliRunner

from multigpu.multigpu_core.cli.app import app
from multigpu.multigpu_core.devices import default_registry


def test_the_table_lists_every_device_of_the_registry() -> None:
    result = CliRunner().invoke(app, ["devices"])
    assert result.exit_code == 0
    assert all(name in result.stdout for name in default_registry().names())


def test_json_gives_the_registrys_own_figures() -> None:
    result = CliRunner().invoke(app, ["devices", "--json"])
    devices = json.loads(result.stdout)["devices"]
    cpu = default_registry().info("cpu")
    assert devices[0]["name"] == "cpu"
    assert devices[0]["total_bytes"] == cpu.total_bytes
    assert 0 < devices[0]["free_bytes"] <= cpu.total_bytes


def test_python_dash_m_multigpu_is_the_same_command() -> None:
    result = subprocess.run([sys.executable, "-m", "multigpu", "devices", "--json"], capture_output=True, check=True)
    assert "cpu" in [device["name"] for device in json.loads(result.stdout)["devices"]]
