"""ComfyUI and split models pin host memory from one budget, and each sees what the other has pinned."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from ..support.in_process import ComfyUI
from ..support.split_models import Sampler, write_split_models

ON_CPU = "npu:0,20%;cpu,80%"
GB = 10**9


@pytest.fixture
def mm(comfyui: ComfyUI) -> Any:
    return importlib.import_module("comfy.model_management")


@pytest.fixture
def sampler(comfyui: ComfyUI) -> Sampler:
    assert comfyui.framework.context.host.pinned.locked_bytes == 0, "of models of the tests before"
    write_split_models(comfyui)
    return Sampler(comfyui, "flux")


def test_comfyui_counts_what_a_split_model_pins_until_it_is_unloaded(
    sampler: Sampler, comfyui: ComfyUI, mm: Any
) -> None:
    locked, before = comfyui.framework.context.host.pinned, mm.TOTAL_PINNED_MEMORY
    split = sampler.split(expert_mode_allocations=ON_CPU)
    picture = sampler.picture(split)
    assert locked.locked_bytes > 0
    assert before + locked.locked_bytes == mm.TOTAL_PINNED_MEMORY
    mm.unload_all_models()
    assert locked.locked_bytes == 0 and before == mm.TOTAL_PINNED_MEMORY
    assert torch.equal(sampler.picture(split), picture)
    assert locked.locked_bytes > 0, "pinned again with the next load"
    mm.unload_all_models()


def test_what_comfyui_has_pinned_is_not_left_for_a_split_model(
    sampler: Sampler, comfyui: ComfyUI, mm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = comfyui.framework.context.host.pinned
    monkeypatch.setattr(locked, "_is_limit_logged", False)
    monkeypatch.setattr(mm, "MAX_PINNED_MEMORY", 4 * GB)
    monkeypatch.setattr(mm, "TOTAL_PINNED_MEMORY", 4 * GB - 1)
    split = sampler.split(expert_mode_allocations=ON_CPU)
    with capture_logs() as lines:
        sampler.picture(split)
    assert locked.locked_bytes == 0
    (line,) = [line["message"] for line in lines if line["event"] == "page_locked_limit"]
    assert "MultiGPU has pinned 0.0 GB of host memory and ComfyUI 4.0 GB" in line
    assert "ComfyUI's own limit" in line
    mm.unload_all_models()


def test_comfyui_unpins_what_is_idle_for_a_split_model(
    sampler: Sampler, comfyui: ComfyUI, mm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def unpin_idle(size: int, evict_active: bool = True) -> Any:
        if not evict_active:  # ComfyUI asks, too, and takes what is in use as well
            asked.append(size)
            mm.TOTAL_PINNED_MEMORY -= GB
        return True

    monkeypatch.setattr(mm, "PINNING_ALLOWED_TYPES", set())  # ComfyUI itself pins nothing here

    monkeypatch.setattr(mm, "MAX_PINNED_MEMORY", 4 * GB)
    monkeypatch.setattr(mm, "TOTAL_PINNED_MEMORY", 4 * GB)
    monkeypatch.setattr(mm, "ensure_pin_registerable", unpin_idle)
    split = sampler.split(expert_mode_allocations=ON_CPU)
    sampler.picture(split)
    assert comfyui.framework.context.host.pinned.locked_bytes > 0
    assert len(asked) == 1
    mm.unload_all_models()
