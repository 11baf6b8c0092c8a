"""A garbage collection in the middle of an unload leaves ComfyUI's list of models right."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from ..support.in_process import ComfyUI
from ..support.split_models import THIRDS, Sampler


class _Garbage:
    """Only the garbage collector ends this, as it does the traceback of an interrupted prompt."""

    def __init__(self, holds: object) -> None:
        self.holds = holds
        self.cycle = self


@pytest.mark.parametrize("is_split", [False, True])
def test_a_model_that_only_garbage_refers_to_can_be_unloaded(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch, is_split: bool
) -> None:
    import comfy.model_management as mm
    import comfy.model_patcher

    sampler = Sampler(comfyui, "flux")
    model = sampler.split(**THIRDS) if is_split else sampler.whole()
    expected = sampler.picture(model)
    detach = comfy.model_patcher.ModelPatcher.detach
    collected = []

    def detach_and_collect(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = detach(self, *args, **kwargs)
        collected.append(gc.collect())
        return result

    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "detach", detach_and_collect)
    gc.collect()
    gc.disable()
    try:
        garbage = _Garbage(model)
        del model, garbage
        mm.free_memory(1e30, mm.get_torch_device())
    finally:
        gc.enable()
    assert collected
    mm.cleanup_models_gc()  # what ended the prompt worker
    mm.cleanup_models()
    assert not mm.current_loaded_models
    again = sampler.split(**THIRDS) if is_split else sampler.whole()
    assert sampler.picture(again).equal(expected)
