"""A load asks the plan-allocation hook for one draft and one plan, however often ComfyUI asks for the size."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest

from multigpu import hookimpl
from multigpu.multigpu_core.allocation import Inventory

from ..support.in_process import ComfyUI
from ..support.split_models import MODES, THIRDS, Sampler

NAME = "counts plans"


class CountsPlans:
    """Leaves every plan to others."""

    def __init__(self) -> None:
        self.asked: list[Inventory] = []

    @hookimpl
    def multigpu_plan_allocation(self, inventory: Inventory) -> None:
        self.asked.append(inventory)


@pytest.fixture
def plans(comfyui: ComfyUI) -> Iterator[CountsPlans]:
    plugin, plugins = CountsPlans(), comfyui.framework.plugins
    plugins.register(plugin, NAME)
    yield plugin
    plugins._manager.unregister(name=NAME)
    del plugins.records[NAME]


def _load(model: Any) -> None:
    importlib.import_module("comfy.model_management").load_models_gpu([model])


def test_the_draft_is_made_once_at_the_node(comfyui: ComfyUI, plans: CountsPlans) -> None:
    model = Sampler(comfyui, "flux").split(**THIRDS)
    assert len(plans.asked) == 1
    sizes = {model.model_size(), model.clone().model_size(), model.model_size()}
    assert len(sizes) == 1 and len(plans.asked) == 1


@pytest.mark.parametrize("mode", ["ratio", "virtual VRAM"])
def test_the_plan_is_made_once_for_a_load_and_stays_until_the_model_is_unloaded(
    comfyui: ComfyUI, plans: CountsPlans, mode: str
) -> None:
    model = Sampler(comfyui, "flux").split(**MODES[mode])
    _load(model)
    _load(model.clone())
    assert model.multigpu_placement.distribution.plan is not None and len(plans.asked) == 2
    importlib.import_module("comfy.model_management").unload_all_models()
    _load(model)
    assert len(plans.asked) == 3, "what is free may have changed, the draft has not"


def test_another_inventory_gets_another_draft(comfyui: ComfyUI, plans: CountsPlans) -> None:
    model = Sampler(comfyui, "flux").split(**THIRDS)
    placement = model.multigpu_placement
    smaller = Inventory(placement.distribution.inventory.blocks[:-1])
    placement.distribution.inventory = smaller
    placement.draft()
    assert plans.asked[1:] == [smaller]
