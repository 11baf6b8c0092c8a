"""`multigpu plan FILE`, as a user runs it: from a file's header to a string for a split node."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from multigpu.multigpu_core.cli import plugins_here
from multigpu.multigpu_core.cli.app import app
from multigpu.testing import simulated

from ..allocation.inventory.test_inventory_of_file import one_tensor, safetensors_file

GB = 1 << 30
BLOCKS = 40


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 40 GB that takes no room on the disk."""
    header = {
        f"transformer_blocks.{index}.weight": one_tensor("U8", [GB], [index * GB, (index + 1) * GB])
        for index in range(BLOCKS)
    }
    return safetensors_file(tmp_path_factory.mktemp("models") / "large.safetensors", header, BLOCKS * GB)


def _plan(file: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["plan", str(file), *options])


def _json(file: Path, *options: str) -> Any:
    return json.loads(_plan(file, *options, "--json").stdout)


TWO_CARDS = ("--machine", "cuda:0=24gb", "--machine", "cuda:1=12gb")


def test_the_table_ends_with_a_string_that_makes_the_same_plan_again(file: Path) -> None:
    lines = _plan(file, *TWO_CARDS).stdout.splitlines()
    (string,) = [line.partition("to reproduce: ")[2] for line in lines if "to reproduce: " in line]
    again = _json(file, *TWO_CARDS, "--expert", string)
    assert again["blocks"] == _json(file, *TWO_CARDS)["blocks"]
    assert any("predicted" in line for line in lines)


def test_what_is_to_stay_free_stays_free(file: Path) -> None:
    plan = _json(file, "--machine", "cuda:0=24gb", "--fit", "cuda:0=10gb")
    assert plan["bytes_by_device"]["cuda:0"] + plan["staging_bytes"] <= 14 * GB
    assert sum(plan["bytes_by_device"].values()) == BLOCKS * GB


def test_virtual_vram_moves_so_much_to_the_donors(file: Path) -> None:
    plan = _json(file, "--machine", "cuda:0=64gb", "--virtual-vram", "8")
    assert plan["bytes_by_device"]["cpu"] == 8 * GB


def test_the_json_has_what_a_step_takes_with_other_sizes_of_staging(file: Path) -> None:
    plan = _json(file, "--machine", "cuda:0=64gb", "--virtual-vram", "8")
    steps = {each["staging_bytes"]: each["predicted_seconds"] for each in plan["staging_trade_off"]}
    assert steps[plan["staging_bytes"]] == plan["predicted_seconds"]
    assert len(steps) > 1


def test_strategies_are_compared_side_by_side(file: Path) -> None:
    plans = _json(file, *TWO_CARDS, "--compare")
    assert [plan["strategy"] for plan in plans] == ["interleave", "contiguous", "parallel", "relay"]
    shown = _plan(file, *TWO_CARDS, "--compare").stdout
    assert all(plan["expert_string"] in shown for plan in plans)


def test_relay_uses_the_card_that_computes_also_where_host_memory_is_the_faster_store(file: Path) -> None:
    plan = _json(file, *TWO_CARDS, "--strategy", "relay")
    assert any(block["relayed"] and block["device"] == "cuda:1" for block in plan["blocks"])


def test_a_model_that_fits_nowhere_exits_with_1_and_says_what_is_missing(file: Path) -> None:
    result = _plan(file, "--machine", "cuda:0=8gb", "--machine", "cpu=8gb")
    assert result.exit_code == 1 and "Does not fit" in result.stdout and "free memory" in result.stdout


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--expert", "cuda:0,1gx"), "'gx' is not a unit"),
        (("--expert", "cuda:7,50%;cpu,50%"), "cuda:7"),
        (("--machine", "=8gb"), "'=8gb' is not a device with a size"),
        (("--machine", "cuda:0=much"), "'cuda:0=much' is not a device with a size"),
        (("--machine", "cuda:0=8gb"), "cuda:0 is named twice"),
        (("--fit", "cuda:1=3gb"), "There is no device 'cuda:1'; there are cuda:0, cpu."),
        (("--strategy", "fast"), "There is no strategy 'fast'"),
    ],
)
def test_a_slip_of_the_pen_exits_with_2_and_no_traceback(file: Path, options: tuple[str, ...], told: str) -> None:
    result = _plan(file, "--machine", "cuda:0=24gb", *options)
    assert result.exit_code == 2 and told in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no model at all")
    for name in ("notes.txt", "nothing.safetensors"):
        result = _plan(tmp_path / name)
        assert result.exit_code == 2 and name in result.output


def test_forty_gigabytes_are_planned_in_a_small_part_of_that_memory(file: Path) -> None:
    code = (
        "import resource, sys, torch\n"
        "from typer.testing import CliRunner\n"
        "used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = used()\n"
        "from multigpu.multigpu_core.cli.app import app\n"
        "result = CliRunner().invoke(app, ['plan', sys.argv[1], '--machine', 'cuda:0=24gb'])\n"
        "print(result.exit_code, (used() - before) * 1024)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    exit_code, size = run.stdout.split()
    assert exit_code == "0" and float(size) < 300 * 2**20


PLUGIN = """
from pathlib import Path
from multigpu import hookimpl
from multigpu.api import AllocationPlan, Placement, PlanError, Strategy

with Path(__file__).with_name("imports").open("a") as imports:
    imports.write("x")


@hookimpl
def multigpu_strategies():
    return [Strategy("offload-all", "offloads all", lambda blocks, *_: ["cpu"] * len(blocks))]


@hookimpl
def multigpu_plan_allocation(inventory, request, devices, reserve_bytes, profile, draft):
    if request.strategy.name == "contiguous":
        raise PlanError("cuda:0", 2, 1, "Ask the plugin's author.")
    if request.strategy.name == "relay":
        raise RuntimeError("broken")
    if request.strategy.name == "interleave":
        names = [info.name for info in devices]
        assert (draft, names) == (True, ["cuda:0", "cuda:1", "cpu"])
        assert reserve_bytes["cuda:1"] == 5 << 30 and reserve_bytes["cuda:0"] > 1 << 30  # left for inference
        assert profile.links["cpu", "cuda:0"].bytes_per_second > 0
        placements = tuple(Placement(block, "cuda:1") for block in inventory.blocks)
        return AllocationPlan(request.compute_device, request.strategy, placements, staging_bytes=3 << 30)
"""


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node pack beside ours that carries `PLUGIN`."""
    pack = tmp_path / "custom_nodes" / "planner"
    pack.mkdir(parents=True)
    (pack / "multigpu_plugin.py").write_text(PLUGIN)
    monkeypatch.setattr(plugins_here, "own_custom_nodes", lambda: [pack.parent])
    return pack


def test_auto_leaves_for_inference_what_comfyui_would_and_says_so(file: Path) -> None:
    shown = _plan(file, "--machine", "cuda:0=8gb")
    assert "1.19 GB of cuda:0 left for inference; --fit cuda:0=SIZE leaves another amount" in shown.output
    report = _json(file, "--machine", "cuda:0=8gb")
    kept = report["bytes_by_device"]["cuda:0"] + report["staging_bytes"]
    assert report["reserved_bytes"] > GB and kept <= 8 * GB - report["reserved_bytes"]
    assert _json(file, "--machine", "cuda:0=8gb", "--fit", "cuda:0=3gb")["reserved_bytes"] == 3 * GB
    assert _json(file, "--machine", "cuda:0=8gb", "--virtual-vram", "20")["reserved_bytes"] == 0


def test_a_prediction_for_a_described_machine_says_what_it_assumes(file: Path) -> None:
    for more in ((), ("--compare",)):
        shown = _plan(file, "--machine", "cuda:0=8gb", *more).output
        assert shown.count("assumes an RTX 3090 on PCIe 4.0 x16; measure to replace") == 1


@pytest.mark.usefixtures("pack")
def test_plugins_are_asked_for_the_plan_as_before_a_load_and_ours_stands_in(file: Path) -> None:
    cards = ("--machine", "cuda:0=24gb", "--machine", "cuda:1=45gb", "--fit", "cuda:1=5gb")
    theirs, refused, _, ours, _ = _json(file, *cards, "--compare")
    assert theirs["bytes_by_device"] == {"cuda:0": 0, "cuda:1": BLOCKS * GB}
    assert not refused["fits"] and "Ask the plugin's author." in refused["reason"]
    assert ours["strategy"] == "relay" and set(ours["bytes_by_device"]) > {"cuda:0"}
    by_its_strategy = _json(file, *cards, "--strategy", "offload-all")
    assert by_its_strategy["strategy"] == "offload-all" and by_its_strategy["bytes_by_device"]["cpu"] == BLOCKS * GB


@pytest.mark.parametrize("options", [("--help",), ("--strategy", "offload-all"), ("--compare", "--json")])
def test_one_call_imports_each_plugin_once(options: tuple[str, ...], file: Path, pack: Path) -> None:
    assert _plan(file, *TWO_CARDS, *options).exit_code == 0
    assert (pack / "imports").read_text() == "x"


@pytest.mark.usefixtures("pack")
def test_the_help_names_the_strategies_of_plugins() -> None:
    for command in ("plan", "verify"):
        shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
        assert "interleave, contiguous, parallel, relay, offload-all." in shown


def test_a_float32_file_counts_as_it_is_loaded_and_fp8_as_chosen(tmp_path: Path) -> None:
    header = {
        f"blocks.{index}.{name}.weight": one_tensor("F32", [GB // 4], [at * GB, (at + 1) * GB])
        for at, (index, name) in enumerate((index, name) for index in range(4) for name in "qk")
    }
    full = safetensors_file(tmp_path / "full.safetensors", header, 8 * GB)
    assert sum(_json(full, *TWO_CARDS)["bytes_by_device"].values()) == 4 * GB
    assert sum(_json(full, *TWO_CARDS, "--weight-dtype", "fp8_e5m2")["bytes_by_device"].values()) == 2 * GB


def test_simulated_devices_show_no_prediction(file: Path) -> None:
    with simulated((64 * GB, 4 * GB)):
        shown, report = _plan(file, "--virtual-vram", "8").stdout, _json(file, "--virtual-vram", "8")
        compared = _plan(file, "--virtual-vram", "8", "--compare").stdout
    assert "no step time is predicted for simulated devices" in shown
    assert " s predicted" not in shown and "assumes" not in shown
    assert report["fits"] and report["predicted_seconds"] is None and report["assumes"] == ""
    assert "none" in compared


def test_a_split_that_moves_nothing_warns(tmp_path: Path) -> None:
    header = {f"layer_{index}.weight": one_tensor("BF16", [8], [index * 16, index * 16 + 16]) for index in range(4)}
    bare = safetensors_file(tmp_path / "bare.safetensors", header, 64)
    shown = _plan(bare, *TWO_CARDS, "--expert", "cuda:0,50%;cuda:1,50%").stdout
    assert "The split leaves the whole model on cuda:0: it has no blocks" in shown


def test_errors_of_the_system_have_no_numbers(tmp_path: Path) -> None:
    for path, told in ((tmp_path / "nothing.safetensors", "no such file or directory."), (tmp_path, "is a directory.")):
        result = _plan(path, *TWO_CARDS)
        assert result.exit_code == 2 and f"error: {path}: {told}" in result.output and "Errno" not in result.output
