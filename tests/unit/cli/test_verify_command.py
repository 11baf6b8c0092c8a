"""`multigpu verify FILE`: a slip of the pen is refused before a ComfyUI is started, and the report tells the truth."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from multigpu.multigpu_core.cli import comfyui_jobs
from multigpu.multigpu_core.cli.app import app
from multigpu.multigpu_core.cli.comfyui_jobs import ComfyUIJobError, Job
from multigpu.multigpu_core.cli.verify.report import print_report
from multigpu.multigpu_core.devices import DeviceRegistry
from multigpu.multigpu_core.provisioning import tiny_models
from multigpu.testing import GB, simulated

command = importlib.import_module("multigpu.multigpu_core.cli.verify.command")

FOUND: dict[str, Any] = {
    "compute_device": "cuda:0",
    "reference": {
        "what": "whole", "step_seconds": 2.0, "peak_bytes": 3 << 20, "bytes_by_device": {"cuda:0": 2 << 20},
        "expert_string": "",
    },
    "split": {
        "what": "split", "step_seconds": 2.5, "peak_bytes": None,
        "bytes_by_device": {"cuda:0": 1 << 20, "cpu": 1 << 20}, "expert_string": "cuda:0,1048576b;cpu,1048576b",
    },
    "difference": {"numbers": 64, "differing": 0, "largest": 0.0, "mean": 0.0},
    "reference_repeats": True,
    "why_not_whole": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write(tmp_path_factory.mktemp("models") / "flux.safetensors", tiny_models.flux_weights())


@pytest.fixture
def two_cards() -> Iterator[None]:
    with simulated((GB, GB)):
        yield


def _verify(file: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["verify", str(file), *options])


def _refused(result: Result) -> str:
    assert result.exit_code == 2 and "Traceback" not in result.output, result.output
    return " ".join(result.output.split())


@pytest.mark.usefixtures("two_cards")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--device", "cuda:9"), "cuda:9"),
        (("--expert", "npu:0,1gx"), "'gx' is not a unit"),
        (("--expert", "npu:1,50%;cpu,50%#npu:1;0;cpu"), "use --device npu:1"),
        (("--virtual-vram", "-3"), "not below 0"),
        (("--donors", "npu:5"), "npu:5"),
        (("--strategy", "fast"), "There is no strategy 'fast'"),
        (("--steps", "1"), "steps"),
        (("--comfyui", "nowhere"), "'nowhere' does not exist"),
        (("--comfyui", "/"), "is not a ComfyUI"),
    ],
)
def test_a_slip_of_the_pen_is_refused_with_its_reason(file: Path, options: tuple[str, ...], told: str) -> None:
    assert told in _refused(_verify(file, *options))


@pytest.mark.usefixtures("two_cards")
def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no model at all")
    for name in ("notes.txt", "nothing.safetensors"):
        assert name in _refused(_verify(tmp_path / name))


def test_without_an_accelerator_there_is_nothing_to_split_between(file: Path) -> None:
    with simulated(()):
        assert "no accelerator" in _refused(_verify(file))


def _told(**changes: Any) -> str:
    console = Console(record=True, width=100)
    print_report("flux.safetensors", {**FOUND, **changes}, console)
    return console.export_text()


def test_the_report_has_both_runs_side_by_side_and_the_verdict() -> None:
    told = _told()
    for words in ("2.0 MiB", "1.0 MiB", "not told", "1.25 times", "cuda:0,1048576b", "Equal bit for bit: all 64"):
        assert words in told


@pytest.mark.parametrize(
    ("repeats", "whose"), [(True, "so the split causes the difference"), (False, "is not deterministic")]
)
def test_a_difference_is_told_in_numbers_and_whose_it_is(repeats: bool, whose: str) -> None:
    difference = {"numbers": 64, "differing": 3, "largest": 0.5, "mean": 0.01}
    told = _told(difference=difference, reference_repeats=repeats)
    assert "3 of 64 numbers differ: by 0.5 at most, 0.01 on average" in told and whose in told
    assert "Equal" not in told


def test_a_reference_that_is_no_single_device_is_not_called_one() -> None:
    assert "Not compared with one device: too large" in _told(why_not_whole="too large")


@pytest.mark.usefixtures("two_cards")
def test_a_file_larger_than_free_memory_is_announced_before_anything_starts(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    order: list[str] = []

    def done(home: Path, job: Job) -> None:
        order.append(job.name)
        raise ComfyUIJobError("no result")

    monkeypatch.setattr(command, "done_in", done)
    monkeypatch.setattr(command, "some_comfyui", lambda chosen: tmp_path)
    monkeypatch.setattr(DeviceRegistry, "free_bytes", lambda self, name: {"cpu": 1024}[name])
    told = _refused(_verify(file))
    assert told.startswith("warning: flux.safetensors has") and "1 kB of system memory are free" in told
    assert order == ["verify"] and told.endswith("error: no result")
    monkeypatch.setattr(DeviceRegistry, "free_bytes", lambda self, name: file.stat().st_size)
    assert "warning" not in _refused(_verify(file))


def test_the_signal_that_ended_comfyui_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "killed.py"
    script.write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    monkeypatch.setattr(comfyui_jobs.inside_comfyui, "__file__", str(script))
    monkeypatch.setattr(comfyui_jobs, "python_of", lambda comfyui: Path(sys.executable))
    with pytest.raises(ComfyUIJobError, match=r"ended by signal 9 \(Killed\).* uses too much memory"):
        comfyui_jobs.done_in(tmp_path, Job("verify", {}))
