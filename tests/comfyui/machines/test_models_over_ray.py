"""A VAE and a text encoder on a second machine on Ray, which has no ComfyUI and no model files."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from multigpu.multigpu_core.comfy.machines import machines as machines_module
from multigpu.multigpu_core.comfy.machines.machines import Machines, machines_of

from ...cluster_commands import NEEDS_RAY, CommandRunning, guest_running, home_running, wait_until
from ..support.in_process import ComfyUI
from ..support.tiny_files import PROMPT
from .conftest import offered
from .test_models_elsewhere import ENCODERS, VAE, same

pytestmark = [*NEEDS_RAY, pytest.mark.long]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandRunning]:
    with home_running(tmp_path_factory.mktemp("cluster") / "home", 47000) as home:
        yield home


@pytest.fixture(scope="module")
def guest(home: CommandRunning) -> Iterator[CommandRunning]:
    with guest_running(home, home.folder.path.parent / "node2") as guest:
        yield guest


@pytest.fixture
def machines(
    home: CommandRunning, guest: CommandRunning, comfyui: ComfyUI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machines]:
    code = _smaller_comfy(tmp_path)
    monkeypatch.setattr(machines_module, "_comfyui_code", lambda: code)
    machines = machines_of(home.folder)
    before = offered(comfyui, machines)
    yield machines
    machines.disconnect()
    comfyui.nodes.NODE_CLASS_MAPPINGS.update(before)


def _smaller_comfy(folder: Path) -> tuple[Path, Path]:
    """Home's ComfyUI with the configurations of encoders that this process uses, too."""
    comfy = Path(importlib.import_module("comfy.model_management").__file__ or "").parent
    copy = folder / "comfy"
    shutil.copytree(comfy, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("comfy.sd1_clip", "comfy.sdxl_clip", "comfy.clip_vision", "comfy.text_encoders.sd3_clip"):
        module = importlib.import_module(name)
        smaller, place = Path(str(module.__file__)).parent, copy.parent / Path(*name.split(".")).parent
        for config in smaller.glob("*.json"):
            if (place / config.name).is_file():
                shutil.copy(config, place)
    return copy, comfy.parent / "node_helpers.py"


def test_models_run_there_as_at_home_also_after_their_worker_was_killed(machines: Machines, comfyui: ComfyUI) -> None:
    latent = {"samples": torch.randn(1, 16, 2, 8, 8, generator=torch.Generator().manual_seed(3))}
    loader = "DualCLIPLoaderMultiGPU"

    def results(device: str) -> list[object]:
        (vae,) = comfyui.run("VAELoaderMultiGPU", **VAE, device=device)
        (clip,) = comfyui.run(loader, **ENCODERS[loader], device=device)
        used.append((vae, clip))
        return [
            comfyui.run("VAEDecode", vae=vae, samples=latent)[0],
            comfyui.run("CLIPTextEncode", clip=clip, text=PROMPT)[0],
        ]

    used: list[tuple[object, object]] = []
    expected = results("npu:1")
    assert same(results("node2/npu:1"), expected)
    workers = [each for each in psutil.process_iter(["cmdline"]) if "_Actor" in " ".join(each.info["cmdline"] or ())]
    assert workers
    for worker in workers:
        worker.kill()
    place = machines.place("node2/npu:1")
    assert place is not None
    wait_until(lambda: machines.loss(place) is not None)
    assert same(results("node2/npu:1"), expected), "on a new worker"
