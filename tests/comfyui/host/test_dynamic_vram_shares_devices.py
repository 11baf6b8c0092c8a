"""Models under DynamicVRAM and split models on the same devices: each gives way to the other, and both stay right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ..support.dynamic_vram import PAGE, ModelVBAR, switch_on
from ..support.in_process import ComfyUI
from ..support.split_models import Sampler, model_management

MB = 1 << 20
SPLIT = {"expert_mode_allocations": "npu:0,60%;npu:1,40%"}


@pytest.fixture
def sampler(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> Sampler:
    switch_on(monkeypatch, comfyui.machine)
    return Sampler(comfyui, "flux")


@pytest.fixture
def expected(sampler: Sampler, comfyui: ComfyUI) -> Tensor:
    """The picture of a model that has all the memory that it wants."""
    picture = sampler.picture(sampler.whole())
    comfyui.reset()
    return picture


def _addresses(model: Any) -> ModelVBAR:
    (addresses,) = model.model.dynamic_vbars.values()
    assert isinstance(addresses, ModelVBAR)
    return addresses


def _file_bytes(comfyui: ComfyUI) -> int:
    return (comfyui.models / "diffusion_models" / "flux.safetensors").stat().st_size


def test_a_dynamic_model_gets_memory_as_its_weights_are_asked_for_and_keeps_it(
    sampler: Sampler, comfyui: ComfyUI, expected: Tensor
) -> None:
    model = sampler.whole()
    model_management().load_models_gpu([model])
    addresses = _addresses(model)
    assert addresses.loaded_size() == 0, "loading grants nothing"
    assert torch.equal(sampler.picture(model), expected)
    granted = addresses.loaded_size()
    assert granted > PAGE and addresses.pinned_pages == 0
    assert comfyui.held_bytes()[0] >= granted and comfyui.held_bytes()[1:] == [0, 0]
    first = comfyui.machine.copies.bytes_moved("cpu", "npu:0")
    comfyui.machine.copies.clear()
    assert torch.equal(sampler.picture(model), expected)
    assert comfyui.machine.copies.bytes_moved("cpu", "npu:0") < first / 4, "its weights are there"
    assert addresses.loaded_size() == granted


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_dynamic_model_that_finds_too_little_memory_streams_the_rest(
    sampler: Sampler, comfyui: ComfyUI, expected: Tensor, share: float
) -> None:
    model = sampler.whole()
    model_management().load_models_gpu([model])
    room = comfyui.machine.devices[0]
    taken = torch.empty(int(room.free_bytes - share * _file_bytes(comfyui)), dtype=torch.uint8, device="npu:0")
    assert torch.equal(sampler.picture(model), expected)
    assert 0 < _addresses(model).loaded_size() < _file_bytes(comfyui)
    del taken


def test_a_split_model_takes_a_dynamic_one_s_memory_and_gives_it_back(
    sampler: Sampler, comfyui: ComfyUI, expected: Tensor
) -> None:
    comfyui.machine.configure([16 * MB, 16 * MB, 16 * MB])
    dynamic, split = sampler.whole(), sampler.split(**SPLIT)
    for _ in range(2):
        assert torch.equal(sampler.picture(dynamic), expected)
        assert _addresses(dynamic).loaded_size() > PAGE
        assert split.loaded_size() == 0, "ComfyUI wants the device for the dynamic one"
        assert torch.equal(sampler.picture(split), expected)
        assert _addresses(dynamic).loaded_size() == 0
        assert split.multigpu_placement.distribution.bytes_by_device().keys() == {"npu:0", "npu:1"}
    del dynamic, split
    comfyui.reset()
    assert comfyui.held_bytes() == [0, 0, 0]


def test_room_for_a_donor_s_weights_takes_of_a_dynamic_model_what_it_needs_and_no_more(
    sampler: Sampler, comfyui: ComfyUI, expected: Tensor
) -> None:
    """The split model computes on another device than the dynamic one, on which it only stores weights."""
    flux = {"unet_name": "flux.safetensors", "weight_dtype": "default"}
    (dynamic,) = comfyui.run("UNETLoaderMultiGPU", **flux, device="npu:1")
    assert torch.equal(sampler.picture(dynamic), expected)
    before, card = _addresses(dynamic).loaded_size(), comfyui.machine.devices[1]
    taken = torch.empty(card.free_bytes, dtype=torch.uint8, device="npu:1")
    comfyui.framework.context.models.make_room(MB, "npu:1", torch.nn.Identity())
    left = _addresses(dynamic).loaded_size()
    assert card.free_bytes >= MB and before - left in range(MB, MB + 2 * PAGE)
    assert torch.equal(sampler.picture(dynamic), expected), "what was taken is streamed, or granted again"
    del taken
    split = sampler.split(**SPLIT)
    assert torch.equal(sampler.picture(split), expected)
    assert torch.equal(sampler.picture(dynamic), expected)
    assert _addresses(dynamic).loaded_size() == before


def test_pages_without_memory_hold_no_numbers(sampler: Sampler) -> None:
    """So that a weight that is read without being asked for shows in the picture."""
    model = sampler.whole()
    sampler.picture(model)
    addresses = _addresses(model)
    weights = [module._v_weight for module in model.model.modules() if hasattr(module, "_v_weight")]
    assert all(weight.isfinite().all() for weight in weights)
    addresses.free_memory(1e30)
    assert not any(weight.isfinite().any() for weight in weights)


def test_what_is_pinned_stays_and_a_page_that_came_back_is_known_to_be_empty(sampler: Sampler) -> None:
    model = sampler.whole()
    model_management().load_models_gpu([model])
    addresses = _addresses(model)
    first, second = addresses.alloc(PAGE), addresses.alloc(PAGE)
    signatures = [addresses.fault(*each[1:]) for each in (first, second)]
    addresses.unpin(*second[1:])
    addresses.free_memory(1e30)
    assert addresses.fault(*second[1:]) is None, "not before the model is prioritized"
    addresses.prioritize()
    again = [addresses.fault(*each[1:]) for each in (first, second)]
    assert again[0] == signatures[0] and again[1] != signatures[1]
    for each in (first, first, second):
        addresses.unpin(*each[1:])
