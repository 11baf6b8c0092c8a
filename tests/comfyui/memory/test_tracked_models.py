"""The models of our nodes may be read and kept by any thread while the prompt worker adds more."""

from __future__ import annotations

import gc
import importlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from ..support.in_process import ComfyUI

MODELS = 600


@pytest.fixture
def ours(comfyui: ComfyUI) -> Any:
    return importlib.import_module("multigpu.multigpu_core.comfy.memory.tracked_models")


@pytest.fixture
def tracked(ours: Any, comfyui: ComfyUI) -> Any:
    return ours.TrackedModels(lambda models, reason, size: set(), comfyui.framework.context.host.registry)


@pytest.fixture
def restless() -> Iterator[None]:
    """Python changes from thread to thread as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def _record(ours: Any, name: str, **fields: Any) -> Any:
    return ours.TrackedModel(name, ours.Devices(torch.device("cpu")), **fields)


class _Loaded:
    """One of ComfyUI's loaded models, as far as it is looked at."""

    def __init__(self, model: nn.Module) -> None:
        self.model = type("Patcher", (), {"model": model})()


def test_models_are_read_and_kept_while_others_are_added(ours: Any, tracked: Any, restless: None) -> None:
    models = [nn.Identity() for _ in range(MODELS)]
    tracked.add(models[0], _record(ours, "first"))
    key = tracked.of(_Loaded(models[0])).key
    failures: list[BaseException] = []

    def add() -> None:
        try:
            for model in models[1:]:
                tracked.add(model, _record(ours, "another"))
        except BaseException as error:
            failures.append(error)

    adding = threading.Thread(target=add)
    adding.start()
    keep = False
    while adding.is_alive():
        keep = not keep
        tracked.set_keep(key, keep)
        assert list(tracked.residencies()) == []
    adding.join()
    assert failures == []
    assert tracked.of(_Loaded(models[0])).keep_loaded is keep
    assert all(tracked.of(_Loaded(model)) is not None for model in models), "none was lost"


def test_a_model_that_is_added_while_another_is_kept_is_not_lost(ours: Any, tracked: Any) -> None:
    first, second = nn.Identity(), nn.Identity()
    adding = threading.Thread(target=lambda: tracked.add(second, _record(ours, "second")))

    class Interrupted(ours.TrackedModel):  # type: ignore[misc]
        """Another thread comes in the middle of a change."""

        def __init__(self, **fields: Any) -> None:
            super().__init__(**fields)
            if self.keep_loaded:
                adding.start()
                adding.join(0.3)  # it has to wait for the change, or has ended by now

    tracked.add(first, Interrupted(name="first", devices=_record(ours, "first").devices, keep_loaded=False))
    tracked.set_keep(tracked.of(_Loaded(first)).key, True)
    adding.join()
    assert tracked.of(_Loaded(first)).keep_loaded
    assert tracked.of(_Loaded(second)) is not None


def test_a_model_that_is_gone_is_forgotten(ours: Any, tracked: Any) -> None:
    model = nn.Identity()
    tracked.add(model, _record(ours, "one"))
    key = tracked.of(_Loaded(model)).key
    del model
    gc.collect()
    for deed in (lambda: tracked.set_keep(key, True), lambda: tracked.unload(key)):
        with pytest.raises(ours.UnknownModelError):
            deed()


def test_a_model_that_is_loaded_again_is_another_one_to_its_users(ours: Any, tracked: Any) -> None:
    model = nn.Identity()
    tracked.add(model, _record(ours, "one"))
    before = tracked.of(_Loaded(model)).key
    tracked.add(model, _record(ours, "one", keep_loaded=True))
    now = tracked.of(_Loaded(model))
    assert now.key != before and now.keep_loaded
    with pytest.raises(ours.UnknownModelError):
        tracked.set_keep(before, False)


@pytest.mark.parametrize("how", ["unload", "unload_all"])
def test_weights_can_be_loaded_again_after_they_were_unloaded_between_prompts(comfyui: ComfyUI, how: str) -> None:
    mm = importlib.import_module("comfy.model_management")
    split = {"compute_device": "npu:1", "expert_mode_allocations": "npu:1,60%;npu:2,40%"}
    (patcher,) = comfyui.run(
        "UNETLoaderDisTorch2MultiGPU", unet_name="flux.safetensors", weight_dtype="default", **split
    )
    models = comfyui.framework.context.models
    for _ in range(2):
        mm.load_models_gpu([patcher])
        with torch.inference_mode(False):
            if how == "unload":
                models.unload(models.of(_Loaded(patcher.model)).key)
            else:
                mm.unload_all_models()
            assert all(weight.detach() is not None for weight in patcher.model.parameters())
    assert comfyui.held_bytes() == [0, 0, 0]
