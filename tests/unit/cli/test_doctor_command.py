"""`multigpu doctor`: what is wrong is found, with what to do; what is right is not complained of."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from multigpu.multigpu_core.cli.app import app
from multigpu.multigpu_core.cli.checks import TESTED, Finding, Severity, findings
from multigpu.multigpu_core.cli.surroundings import CardLink, Surroundings
from multigpu.multigpu_core.devices import DeviceInfo

ROOT = Path(__file__).parents[3]


def _card(index: int, can_pin: bool = True) -> DeviceInfo:
    return DeviceInfo(f"cuda:{index}", "cuda", index, "card", 24 << 30, 20 << 30, can_pin, True)


HEALTHY = Surroundings(
    comfyui=Path("ComfyUI"),
    comfyui_version=TESTED[0],
    devices=(_card(0), _card(1)),
    swap_bytes=32 << 30,
    links=(CardLink("card", 4, 4, 16, 16),),
)


def test_a_healthy_machine_is_not_complained_of() -> None:
    assert findings(HEALTHY) == []


@pytest.mark.parametrize(
    ("change", "severity", "told"),
    [
        ({"python": (3, 9)}, "problem", "Python 3.9 is too old"),
        ({"torch": (2, 3)}, "problem", "torch 2.3 is too old"),
        ({"rivals": ("MultiGPU of old",)}, "problem", "custom_nodes/MultiGPU of old"),
        ({"comfyui": None}, "note", "in no ComfyUI"),
        ({"comfyui_version": ""}, "warning", "does not look like a ComfyUI"),
        ({"comfyui_version": "0.99.0"}, "note", "0.99.0 has not been tested"),
        ({"settings_problems": ("plugins.toml, line 3: no such key",)}, "warning", "line 3"),
        ({"device_problems": ("cuda:1: broken",)}, "warning", "cuda:1: broken"),
        ({"devices": ()}, "note", "no accelerator"),
        ({"devices": (_card(0),)}, "note", "one accelerator, cuda:0"),
        ({"devices": (_card(0), _card(1, can_pin=False))}, "note", "page-locked for cuda:1"),
        ({"environ": {"CUDA_VISIBLE_DEVICES": "1"}}, "note", "CUDA_VISIBLE_DEVICES is '1'"),
        ({"system": "Windows"}, "note", "Windows, and 2 cards"),
        ({"is_wsl": True}, "note", "WSL"),
        ({"blind_pairs": (("cuda:0", "cuda:1"),)}, "note", "cuda:0 cannot read the memory of cuda:1"),
        ({"links": (CardLink("card", 4, 4, 4, 16),)}, "warning", "4 of 16 PCIe lanes"),
        ({"links": (CardLink("card", 1, 4, 16, 16),)}, "note", "PCIe 1 of 4"),
        ({"is_profiled": False}, "note", "have not been measured"),
        ({"swap_bytes": 0}, "note", "0 GB of swap"),
    ],
)
def test_each_thing_that_is_wrong_is_found_alone_with_what_to_do(
    change: dict[str, Any], severity: str, told: str
) -> None:
    (finding,) = findings(replace(HEALTHY, **change))
    assert finding.severity == severity and told in finding.what and len(finding.todo) > 10


def test_the_worst_comes_first() -> None:
    found = findings(replace(HEALTHY, swap_bytes=0, torch=(2, 3), comfyui_version=""))
    assert [finding.severity for finding in found] == [Severity.PROBLEM, Severity.WARNING, Severity.NOTE]


def test_the_versions_that_it_calls_tested_are_those_that_the_readme_names() -> None:
    named = re.search(r"\*\*([\d., and]+)\*\*", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert named is not None and set(re.findall(r"\d+\.\d+\.\d+", named[1])) == set(TESTED)


def test_a_second_extension_beside_a_comfyui_is_a_problem_and_exits_with_1(tmp_path: Path) -> None:
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.30.0"\n')
    rival = tmp_path / "custom_nodes" / "old"
    rival.mkdir(parents=True)
    (rival / "pyproject.toml").write_text('[project]\nname = "ComfyUI-MultiGPU"\n')
    result = CliRunner().invoke(app, ["doctor", "--comfyui", str(tmp_path)])
    assert result.exit_code == 1 and "custom_nodes/old" in result.stdout and "Remove one" in result.stdout
    found = json.loads(CliRunner().invoke(app, ["doctor", "--comfyui", str(tmp_path), "--json"]).stdout)
    assert Finding(**found[0]).severity == "problem"
