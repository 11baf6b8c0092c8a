"""Our code under what newer ComfyUI calls and expects otherwise, as far as its files could be read."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ..support.dynamic_vram import HostBuffer, ModelMMAP, ModelVBAR, switch_on
from ..support.in_process import ComfyUI
from ..support.newer_comfyui import Compiler, patcher_with_fast_disk, with_compiler
from ..support.split_models import THIRDS, Sampler, model_management

FLUX = {"unet_name": "flux.safetensors", "weight_dtype": "default"}


@pytest.fixture
def fast_disk(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> type:
    """The class that ComfyUI's loaders make patchers of."""
    patchers, made = importlib.import_module("comfy.model_patcher"), patcher_with_fast_disk()
    for name in ("ModelPatcher", "CoreModelPatcher"):
        monkeypatch.setattr(patchers, name, made)
    return made


def test_a_patcher_that_takes_fast_disk_is_split_cloned_and_samples(comfyui: ComfyUI, fast_disk: type) -> None:
    sampler = Sampler(comfyui, "flux")
    expected = sampler.picture(sampler.whole())
    split = sampler.split(**THIRDS)
    assert isinstance(split, fast_disk) and split.fast_disk is False
    split.fast_disk = True
    cloned = split.clone()
    assert cloned.fast_disk is True and type(cloned) is type(split)
    assert torch.equal(sampler.picture(cloned), expected)


CALLED = {
    "model_vbar": (ModelVBAR, "__init__ prioritize alloc fault unpin loaded_size free_memory close"),
    "host_buffer": (HostBuffer, "__init__ extend truncate"),
    "model_mmap": (ModelMMAP, "__init__ get get_file_handle bounce"),
}
"""Of comfy-aimdo's modules: our stand-in for the class, and the methods of it that ComfyUI calls."""


@pytest.mark.parametrize("module", CALLED)
def test_the_stand_in_for_comfy_aimdo_takes_what_the_installed_one_takes(module: str) -> None:
    """The tests of DynamicVRAM show nothing of a newer comfy-aimdo if ComfyUI calls it otherwise."""
    stand_in, methods = CALLED[module]
    installed = getattr(importlib.import_module(f"comfy_aimdo.{module}"), stand_in.__name__)
    for name in filter(lambda name: hasattr(installed, name), methods.split()):
        theirs, ours = (inspect.signature(getattr(each, name)).parameters for each in (installed, stand_in))
        assert len(theirs) <= len(ours), f"{name} of comfy-aimdo has {list(theirs)}"


@pytest.fixture
def failing(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """DynamicVRAM; the driver cannot take memory away from a model within the context that is given."""
    switch_on(monkeypatch, comfyui.machine)
    with pytest.MonkeyPatch.context() as patched:
        yield patched


def test_a_driver_that_cannot_free_memory_fails_the_load_and_the_next_one_succeeds(
    comfyui: ComfyUI, failing: pytest.MonkeyPatch
) -> None:
    """From 0.6.0 on comfy-aimdo raises where it returned nothing."""
    comfyui.machine.configure([16 << 20] * 3)
    sampler = Sampler(comfyui, "flux")
    dynamic, split = sampler.whole(), sampler.split(**THIRDS)
    expected = sampler.picture(dynamic)

    def refuse(model: ModelVBAR, size: float) -> int:
        raise RuntimeError("VBAR free_memory failed")

    failing.setattr(ModelVBAR, "free_memory", refuse)
    with pytest.raises(RuntimeError, match="VBAR free_memory failed"):
        sampler.picture(split)
    assert split.loaded_size() == 0 and split not in model_management().loaded_models()
    failing.undo()
    assert torch.equal(sampler.picture(split), expected)


@pytest.fixture
def compiler(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    """A ComfyUI with DynamicVRAM and Comfy Compiler."""
    switch_on(monkeypatch, comfyui.machine)
    patches = comfyui.framework.patches
    patches.restore()
    compiler = with_compiler(monkeypatch)
    patches.install()
    yield compiler
    patches.restore()
    monkeypatch.undo()
    patches.install()


def test_comfyui_s_own_model_is_recorded_and_its_blocks_are_captured(comfyui: ComfyUI, compiler: Compiler) -> None:
    sampler = Sampler(comfyui, "flux")
    sampler.picture(sampler.whole())
    assert compiler.recorded and compiler.captured and all(compiler.paused)


@pytest.mark.parametrize("strategy", ["interleave", "relay"])
def test_no_block_of_a_split_model_is_captured_and_the_context_of_comfy_kitchen_that_is_left_interrupts_nothing(
    comfyui: ComfyUI, compiler: Compiler, strategy: str
) -> None:
    sampler = Sampler(comfyui, "flux")
    expected = sampler.picture(sampler.whole())
    model_management().unload_all_models()
    for seen in (compiler.recorded, compiler.captured, compiler.paused):
        seen.clear()  # type: ignore[attr-defined]
    split: Any = sampler.split(**THIRDS, strategy=strategy)
    assert torch.equal(sampler.picture(split), expected)
    assert not compiler.recorded and not compiler.captured
    assert compiler.paused and not any(compiler.paused)
    assert not any(hasattr(module, "_v_block") for module in split.model.modules())
