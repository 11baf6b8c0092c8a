"""`multigpu verify`, as a user runs it, on simulated accelerators; and that it does see a split that is wrong."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from multigpu.multigpu_core.cli.app import app
from multigpu.multigpu_core.cli.comfyui_jobs import ComfyUIJobError, Job
from multigpu.multigpu_core.execution.parity import Run
from multigpu.multigpu_core.provisioning import tiny_checkpoint, tiny_models
from multigpu.testing import GB

from ..support.architectures.unets import SDXL
from ..support.gguf_files import write_gguf_files
from ..support.in_process import ComfyUI
from ..support.packs_at_hand import stand_in
from ..support.split_models import write_split_models

MB = 2**20
HALF = {"expert_mode_allocations": "npu:0,50%;npu:1,25%;cpu,25%"}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is in no folder of ComfyUI's."""
    return tiny_models.write(tmp_path_factory.mktemp("downloads") / "my flux.safetensors", tiny_models.flux_weights())


def _verify(file: Path, comfyui: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "multigpu",
        "verify",
        str(file),
        "--size",
        "64",
        "--comfyui",
        str(comfyui),
        *options,
    ]
    environment = {**os.environ, "MULTIGPU_SIMULATE": "2x4gb"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def verify(comfyui: ComfyUI, file: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command with its job done in this process's ComfyUI: starting another takes many times as long.

    That a process of its own does the job is seen by the tests of .gguf files, and of docs/cli.md.
    """
    jobs = importlib.import_module("multigpu.multigpu_core.comfy.trials.jobs")
    folders = importlib.import_module("folder_paths").folder_names_and_paths
    paths, extensions = folders["diffusion_models"]
    monkeypatch.setitem(folders, "diffusion_models", (list(paths), extensions))
    command = importlib.import_module("multigpu.multigpu_core.cli.verify.command")

    def done(home: Path, job: Job) -> Any:
        assert not job.packs and not job.flags
        answer = jobs.JOBS[job.name](comfyui.framework, json.loads(json.dumps(job.arguments)))
        if "error" in answer:
            raise ComfyUIJobError(answer["error"])
        return json.loads(json.dumps(answer))

    monkeypatch.setattr(command, "done_in", done)

    def run(*options: str, cards: tuple[int, ...] = (4 * GB, 4 * GB)) -> Result:
        comfyui.machine.configure(cards)
        return CliRunner().invoke(app, ["verify", str(file), "--size", "64", *options])

    return run


def test_a_split_gives_the_numbers_of_one_device(verify: Callable[..., Result]) -> None:
    run = verify("--donors", "npu:1,cpu", "--json")
    assert run.exit_code == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["equal"] and found["difference"]["numbers"] == 16 * 8 * 8
    whole, split = found["reference"], found["split"]
    assert set(whole["bytes_by_device"]) == {"npu:0"} and set(split["bytes_by_device"]) == {"npu:0", "npu:1", "cpu"}
    total = whole["bytes_by_device"]["npu:0"]
    assert sum(split["bytes_by_device"].values()) == total
    assert split["bytes_by_device"]["npu:0"] == pytest.approx(total / 2, rel=0.1)
    assert total < whole["peak_bytes"] and split["peak_bytes"] < whole["peak_bytes"]
    assert min(whole["step_seconds"], split["step_seconds"]) > 0


def test_a_model_that_does_not_fit_whole_is_compared_with_another_split(verify: Callable[..., Result]) -> None:
    run = verify("--virtual-vram", "0.006", cards=(7 * MB, GB))
    assert run.exit_code == 0, run.output
    assert "Not compared with one device" in run.stdout and "every block on cpu" in run.stdout
    assert "Equal bit for bit" in run.stdout


def test_a_split_that_fits_nowhere_is_refused(verify: Callable[..., Result]) -> None:
    run = verify("--expert", "npu:0,100%", cards=(8 * MB, GB))
    assert run.exit_code == 2 and "error:" in run.stderr and "npu:0" in run.stderr
    assert "Traceback" not in run.output


def test_a_gguf_file_without_the_pack_that_reads_it_is_refused(comfyui_path: Path, tmp_path: Path) -> None:
    write_gguf_files(tmp_path)
    run = _verify(tmp_path / "q8_0.gguf", comfyui_path)
    assert run.returncode == 2 and "needs the node pack ComfyUI-GGUF" in run.stderr


def test_a_gguf_file_is_compared_where_the_pack_that_reads_it_is(comfyui_path: Path, tmp_path: Path) -> None:
    write_gguf_files(tmp_path)
    home = shutil.copytree(comfyui_path, tmp_path / "ComfyUI", ignore=shutil.ignore_patterns("__pycache__", ".git"))
    shutil.copytree(stand_in("gguf"), home / "custom_nodes" / "ComfyUI-GGUF")
    run = _verify(tmp_path / "q8_0.gguf", home, "--json")
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(run.stdout)
    assert found["equal"] and set(found["split"]["bytes_by_device"]) == {"npu:0", "cpu"}


def _compared(comfyui: ComfyUI, file: str) -> Any:
    trials = importlib.import_module("multigpu.multigpu_core.comfy.trials.trial_runs")
    inputs = {"unet_name": file, "weight_dtype": "default"}
    with torch.inference_mode():
        trial = trials.SplitTrial("UNETLoader", inputs, "npu:0", HALF, steps=2, size_pixels=64)
        return trials.compared(trial, comfyui.framework.context.host.registry)


@pytest.mark.parametrize("model", ["flux", "wan", "sd3"])
def test_inputs_are_made_up_for_the_model_s_own_architecture(comfyui: ComfyUI, model: str) -> None:
    write_split_models(comfyui)
    tiny_models.write(comfyui.models / "diffusion_models" / "sd3.safetensors", tiny_checkpoint.sd3_weights())
    parity = _compared(comfyui, f"{model}.safetensors")
    assert parity.difference.is_none and not parity.why_not_whole
    assert comfyui.held_bytes() == [0, 0, 0], "nothing stays loaded"


def test_a_wrong_weight_in_the_split_model_is_seen(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    placement = importlib.import_module("multigpu.multigpu_core.comfy.split.placement")
    load = placement.ModelPlacement.load

    def load_wrongly(self: Any, *args: Any) -> None:
        weight = self.distribution.module.diffusion_model.single_blocks[1].linear2.weight
        if self.distribution.plan is None:
            weight.data[0, 0] += 1.0
        load(self, *args)

    monkeypatch.setattr(placement.ModelPlacement, "load", load_wrongly)
    parity = _compared(comfyui, "flux.safetensors")
    assert parity.difference.differing > 0 and 0 < parity.difference.mean <= parity.difference.largest
    assert parity.reference_repeats is True, "and the whole model is not to blame"


@pytest.mark.usefixtures("comfyui")
def test_neither_order_nor_warm_up_favours_the_split(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = importlib.import_module("multigpu.multigpu_core.comfy.trials.trial_runs")
    order: list[str] = []

    class Runs:
        """A machine on which each run takes half as long as the one before."""

        def __init__(self, *_: Any) -> None: ...

        def _run(self, what: str) -> tuple[Run, torch.Tensor]:
            order.append(what)
            return Run(what, 8.0 / 2 ** len(order), None, {}), torch.arange(3.0)

        def whole(self) -> tuple[Run, torch.Tensor]:
            return self._run("whole")

        def split(self, what: str, widgets: Any) -> tuple[Run, torch.Tensor]:
            return self._run(what)

        def unload(self) -> None:
            order.append("unload")

    monkeypatch.setattr(trials, "_Runs", Runs)
    found = trials.compared(trials.SplitTrial("", {}, "npu:0", {}), comfyui.framework.context.host.registry)
    assert order == ["whole", "split", "whole", "unload"]
    assert (found.reference.step_seconds, found.split.step_seconds) == (1.0, 2.0)
    assert found.reference_repeats and found.difference.is_none


def test_a_model_of_unknown_inputs_is_named() -> None:
    inputs = importlib.import_module("multigpu.multigpu_core.comfy.trials.made_up_inputs")
    model = torch.nn.Module()
    model.diffusion_model, model.model_config = torch.nn.Linear(1, 1), type("Config", (), {"unet_config": {}})
    with pytest.raises(inputs.UnknownInputsError, match="No inputs can be made up for a Module"):
        inputs.made_up_prompt(model, 1)


@pytest.mark.usefixtures("comfyui")
def test_a_pooled_prompt_is_what_sdxl_leaves_for_it_beside_the_sizes() -> None:
    inputs = importlib.import_module("multigpu.multigpu_core.comfy.trials.made_up_inputs")
    config = importlib.import_module("comfy.supported_models").SDXL({**SDXL, "dtype": torch.float16})
    model = config.get_model({}, device="meta")
    assert (inputs.prompt_width(model), inputs.pooled_width(model)) == (2048, 1280)
