"""Each way to extend MultiGPU takes one file: the example's, installed by pip or put into a node pack, works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "extensions"
TOY = b"TOY1\nblocks.0.weight float16 600\nblocks.1.weight float16 400\n\n" + bytes(1000)
FILES = {file.stem: file for file in EXAMPLES.glob("example_*.py")}
CARDS = ("--machine", "cuda:0=1gb", "--machine", "cuda:1=1gb")

PLANNING = """
import example_planner
from multigpu import hookspecs
from multigpu.api import AllocationMode, AllocationRequest, Block, BlockKind, DeviceInfo, HardwareProfile, Inventory
from multigpu.multigpu_core.plugins import Candidate, PluginManager
from multigpu.multigpu_core.plugins.defaults import DefaultPlanner

model = Inventory(tuple(Block(f"b.{i}", BlockKind.TRANSFORMER, "float16", 1000, (f"b.{i}.w",)) for i in range(10)))
sizes = {"cpu": 100_000, "cuda:0": 4500, "cuda:1": 7500}
devices = [DeviceInfo(n, n[:4], None, n, s, s, can_pin_host_memory=True, has_streams=True) for n, s in sizes.items()]
plugins = PluginManager(hookspecs)
plugins.register(DefaultPlanner(), "default_planner")
plugins.register_all([Candidate("example", "a test", "1", lambda: example_planner)])
plan = plugins.plan_allocation(
    inventory=model, request=AllocationRequest("cuda:0", AllocationMode.AUTO), devices=devices, reserve_bytes={},
    profile=HardwareProfile({}, {}), draft=False,
)
assert plugins.records["example"].works, plugins.records["example"].why_not
for device, size in plan.bytes_by_device.items():
    print(size, device, sum(placement.device == device for placement in plan.placements), "blocks")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the distribution of examples installed in it, as site-packages would have it."""
    folder, source = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("source")
    for file in [EXAMPLES / "pyproject.toml", *FILES.values()]:
        (source / file.name).write_bytes(file.read_bytes())
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*command, str(folder), str(source)], check=True, capture_output=True)
    return folder


def multigpu(path: Path, *arguments: str) -> str:
    """What the `multigpu` command prints, with `path` on the import path."""
    python_path = os.pathsep.join([str(path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": python_path, "MULTIGPU_SIMULATE": "", "COLUMNS": "200"}
    command = [sys.executable, "-m", "multigpu", *arguments]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_every_example_is_found_and_works_when_it_is_installed(installed: Path) -> None:
    records = {record["name"]: record for record in json.loads(multigpu(installed, "plugins", "--json"))}
    assert len(FILES) == 5
    assert [records[name]["works"] for name in FILES] == [True] * 5
    assert {records[name]["source"] for name in FILES} == {"multigpu-example-extensions"}


@pytest.fixture
def only(tmp_path: Path) -> Path:
    """A folder of distributions that `put` fills with one plugin of one file."""
    return tmp_path


def put(folder: Path, name: str) -> Path:
    """One file of the example, and the entry point that names it: nothing else of the example is there."""
    (folder / f"{name}.py").write_bytes(FILES[name].read_bytes())
    metadata = folder / "only_this-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: only-this\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(f"[multigpu.integrations]\n{name} = {name}\n")
    assert len(list(folder.glob("*.py"))) == 1
    return folder


def test_a_command_is_one_file(only: Path) -> None:
    folder = put(only, "example_command")
    assert multigpu(folder, "greet", "--name", "you") == "Hello, you.\n"
    assert "greet" in multigpu(folder, "--help")


def test_a_device_backend_is_one_file(only: Path) -> None:
    devices = json.loads(multigpu(put(only, "example_backend"), "devices", "--json"))["devices"]
    (toy,) = [device for device in devices if device["name"] == "toy:0"]
    assert (toy["total_bytes"], toy["free_bytes"]) == (4 << 30, 3 << 30)


def test_a_file_format_is_one_file(only: Path) -> None:
    (only / "model.toy").write_bytes(TOY)
    report = json.loads(multigpu(put(only, "example_format"), "plan", str(only / "model.toy"), *CARDS, "--json"))
    assert report["fits"] and sum(size for size in report["bytes_by_device"].values()) == 1000


def test_a_strategy_is_one_file(only: Path) -> None:
    folder = put(only, "example_strategy")
    lines = "".join(f"blocks.{i}.a.weight float16 100\n" for i in range(10))
    (only / "model.toy").write_bytes(b"TOY1\n" + lines.encode() + b"\n" + bytes(1000))
    (only / "example_format.py").write_bytes(FILES["example_format"].read_bytes())
    entry_points = only / "only_this-1.dist-info" / "entry_points.txt"
    entry_points.write_text(entry_points.read_text() + "example_format = example_format\n")
    assert "relay, ending" in multigpu(folder, "plan", "--help")
    wish = ("--expert", "cuda:0,60%;cpu,40%", "--strategy", "ending")
    report = json.loads(multigpu(folder, "plan", str(only / "model.toy"), *CARDS, *wish, "--json"))
    assert report["strategy"] == "ending" and report["bytes_by_device"] == {"cuda:0": 600, "cpu": 400}


def test_a_planner_is_one_file_of_thirty_lines(only: Path) -> None:
    folder = put(only, "example_planner")
    code = [line for line in FILES["example_planner"].read_text().splitlines() if line.strip()]
    assert len(code) <= 40
    printed = subprocess.run(
        [sys.executable, "-c", PLANNING], env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True
    )
    assert printed.stdout.splitlines() == ["2000 cuda:0 2 blocks", "1000 cpu 1 blocks", "7000 cuda:1 7 blocks"], printed
