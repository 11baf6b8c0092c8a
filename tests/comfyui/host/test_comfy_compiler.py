"""Comfy Compiler, which newer ComfyUI versions have, records no model that is split or on another device.

A stand-in takes its place: as in ComfyUI, a model's forward asks `malloc_graph_enabled` for its device and begins a
recording if that is true. A recording that one of our models is in would end the process in native code.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from multigpu.multigpu_core.comfy.host.compatibility import Feature, missing_features

from ..support.in_process import ComfyUI
from ..support.split_models import THIRDS, Sampler


class Recorder:
    """The stand-in: `recorded` are the devices whose forward passes were recorded."""

    def __init__(self) -> None:
        self.recorded: list[torch.device] = []

    def forward(self, original: Any) -> Any:
        """A model's forward as ComfyUI 0.38 has it."""

        def recorded_forward(model: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
            if importlib.import_module("comfy.model_prefetch").malloc_graph_enabled(x.device):
                self.recorded.append(x.device)
            return original(model, x, *args, **kwargs)

        return recorded_forward


@pytest.fixture
def recorder(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    from comfy.cli_args import args
    from comfy.ldm.flux.model import Flux

    recorder = Recorder()
    prefetch = importlib.import_module("comfy.model_prefetch")
    monkeypatch.setattr(args, "disable_comfy_compiler", False, raising=False)
    monkeypatch.setattr(prefetch, "malloc_graph_enabled", lambda device: not args.disable_comfy_compiler, raising=False)
    monkeypatch.setattr(Flux, "forward", recorder.forward(Flux.forward))
    patches = comfyui.framework.patches
    patches.restore()
    patches.install()
    yield recorder
    patches.restore()
    monkeypatch.undo()
    patches.install()


def test_a_model_of_comfyui_s_own_loader_is_recorded(comfyui: ComfyUI, recorder: Recorder) -> None:
    sampler = Sampler(comfyui, "flux")
    sampler.picture(sampler.whole())
    assert set(recorder.recorded) == {torch.device("npu:0")}


@pytest.mark.parametrize("strategy", ["interleave", "relay"])
def test_a_split_model_is_never_recorded_and_comfyui_s_own_is_again_when_it_is_gone(
    comfyui: ComfyUI, recorder: Recorder, strategy: str
) -> None:
    import comfy.model_management as mm

    sampler = Sampler(comfyui, "flux")
    sampler.picture(sampler.split(**THIRDS, strategy=strategy))
    assert not recorder.recorded
    mm.unload_all_models()
    sampler.picture(sampler.whole())
    assert recorder.recorded


def test_a_model_that_was_moved_to_another_device_is_not_recorded_there(comfyui: ComfyUI, recorder: Recorder) -> None:
    sampler = Sampler(comfyui, "flux")
    (moved,) = comfyui.run("UNETLoaderMultiGPU", unet_name="flux.safetensors", weight_dtype="default", device="npu:1")
    sampler.picture(moved)
    assert not recorder.recorded


def test_a_compiler_that_cannot_be_kept_away_is_named_with_the_way_out(
    comfyui: ComfyUI, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches = comfyui.framework.patches
    patches.restore()
    monkeypatch.delattr(importlib.import_module("comfy.model_prefetch"), "malloc_graph_enabled")
    patches.install()
    (feature,) = missing_features()
    assert feature is Feature.COMPILER and "--disable-comfy-compiler" in feature.value


def test_a_comfyui_without_the_compiler_lacks_nothing(comfyui: ComfyUI) -> None:
    assert missing_features() == {}
