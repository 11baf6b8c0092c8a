"""A split model beside others: ComfyUI asks for memory, other models need the devices, plans do not fit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from multigpu.multigpu_core.allocation import AllocationError, PlanError

from ..support.in_process import ComfyUI
from ..support.split_models import MODES, THIRDS, Sampler, model_management

MB = 2**20


@pytest.fixture
def sampler(comfyui: ComfyUI) -> Sampler:
    return Sampler(comfyui, "flux")


@pytest.fixture
def small_cards(comfyui: ComfyUI) -> Iterator[ComfyUI]:
    """Cards that the tiny model does not fit on. Tensors of earlier tests no longer count."""
    comfyui.machine.configure([6 * MB, 4 * MB, 4 * MB])
    yield comfyui


def test_comfyui_gets_the_memory_that_it_asks_for_and_the_picture_stays_the_same(
    sampler: Sampler, comfyui: ComfyUI
) -> None:
    expected = sampler.picture(sampler.whole())
    comfyui.reset()
    split = sampler.split(expert_mode_allocations="npu:0,90%;npu:1,10%")
    sampler.picture(split)
    held, elsewhere, _ = comfyui.held_bytes()
    freed = split.partially_unload(split.offload_device, 3 * MB)
    assert freed >= 3 * MB
    assert comfyui.held_bytes() == [held - freed, elsewhere, 0]
    assert split.loaded_size() == held - freed
    assert torch.equal(sampler.picture(split), expected)


def test_what_was_given_back_returns_when_there_is_room(sampler: Sampler, comfyui: ComfyUI) -> None:
    split = sampler.split(expert_mode_allocations="npu:0,90%;npu:1,10%")
    sampler.picture(split)
    held = comfyui.held_bytes()
    split.partially_unload(split.offload_device, 3 * MB)
    sampler.picture(split)
    assert comfyui.held_bytes() == held


def test_comfyui_s_own_record_of_a_partial_load_is_over_when_the_model_is_loaded_split(sampler: Sampler) -> None:
    split = sampler.split(**THIRDS)
    split.model.model_lowvram, split.model.lowvram_patch_counter = True, 3
    sampler.picture(split)
    assert split.model.model_lowvram is False and split.lowvram_patch_counter() == 0


def test_an_interrupt_in_the_middle_of_a_block_harms_nothing(sampler: Sampler, comfyui: ComfyUI) -> None:
    interrupt = model_management().InterruptProcessingException
    split = sampler.split(**THIRDS)
    expected = sampler.picture(split)
    stored = dict(split.model.named_parameters())
    offloaded = split.multigpu_placement.distribution.plan.offloaded[0].block
    inner = split.model.get_submodule(offloaded.parameters[0].rpartition(".")[0])

    def interrupting(module: torch.nn.Module, args: object) -> None:
        raise interrupt

    handle = inner.register_forward_pre_hook(interrupting)
    with pytest.raises(interrupt):
        sampler.picture(split)
    handle.remove()
    assert torch.equal(sampler.picture(split), expected)
    assert all(value is stored[name] for name, value in split.model.named_parameters()), "no weight was placed anew"


def test_another_model_s_load_pushes_the_split_one_off_its_card(sampler: Sampler, comfyui: ComfyUI) -> None:
    split = sampler.split(**THIRDS)
    expected = sampler.picture(split)
    model_management().free_memory(1e30, torch.device("npu:0"))
    assert comfyui.held_bytes() == [0, 0, 0]
    assert torch.equal(sampler.picture(split), expected)


def test_room_is_made_on_a_donor_before_it_is_filled(sampler: Sampler, small_cards: ComfyUI) -> None:
    (model,) = small_cards.run("VAELoaderMultiGPU", vae_name="vae.safetensors", device="npu:1")
    size = model.patcher.model_size()
    small_cards.machine.configure([64 * MB, size + MB // 2, 64 * MB])
    model_management().load_models_gpu([model.patcher], force_full_load=True)
    assert small_cards.held_bytes()[1] == size
    split = sampler.split(expert_mode_allocations="npu:1,2mb;npu:0,*")
    sampler.picture(split)
    placed = split.multigpu_placement.distribution.bytes_by_device()
    assert placed["npu:1"] > 0 and model.patcher.loaded_size() < size
    assert small_cards.held_bytes()[1] == placed["npu:1"] + model.patcher.loaded_size()


def test_two_split_models_take_turns_on_a_donor_that_holds_one(sampler: Sampler, comfyui: ComfyUI) -> None:
    """The two models of a Wan 2.2 workflow, say, split alike."""
    first, second = (sampler.split(expert_mode_allocations="npu:1,80%;npu:0,20%") for _ in range(2))
    expected = sampler.picture(first)
    stored = first.multigpu_placement.distribution.bytes_by_device()["npu:1"]
    comfyui.reset()
    comfyui.machine.configure([64 * MB, int(1.5 * stored), 64 * MB])
    for model, other in ((first, second), (second, first), (first, second)):
        assert torch.equal(sampler.picture(model), expected)
        assert comfyui.held_bytes()[1] == stored
        assert other.loaded_size() == 0


def test_a_share_that_can_never_fit_is_refused_at_the_node(sampler: Sampler, small_cards: ComfyUI) -> None:
    with pytest.raises(PlanError, match="npu:1") as refusal:
        sampler.split(expert_mode_allocations="npu:1,100%")
    assert refusal.value.device == "npu:1"
    assert refusal.value.needed_bytes > refusal.value.free_bytes == 4 * MB
    assert small_cards.held_bytes() == [0, 0, 0]


def test_a_share_that_does_not_fit_now_is_refused_before_anything_moves(sampler: Sampler, comfyui: ComfyUI) -> None:
    split = sampler.split(expert_mode_allocations="npu:1,90%;cpu,10%")
    comfyui.machine.configure([64 * MB, 64 * MB, 64 * MB])
    occupant = torch.zeros(62 * MB, dtype=torch.uint8, device="npu:1")
    with pytest.raises(PlanError, match="npu:1"):
        sampler.picture(split)
    assert comfyui.held_bytes() == [0, occupant.numel(), 0]
    assert comfyui.machine.copies.bytes_moved("cpu", "npu:0") < MB
    del occupant
    assert sampler.picture(split).isfinite().all()


def test_virtual_vram_that_a_donor_cannot_take_spills_with_a_warning(sampler: Sampler, small_cards: ComfyUI) -> None:
    split = sampler.split(virtual_vram_gb=0.006, donor_device="npu:1")
    small_cards.machine.configure([64 * MB, 3 * MB, 64 * MB])
    sampler.picture(split)
    plan = split.multigpu_placement.distribution.plan
    assert plan.bytes_by_device["cpu"] > 0 and plan.bytes_by_device["npu:1"] <= 3 * MB
    assert any("npu:1" in warning for warning in plan.warnings)


def test_auto_leaves_what_inference_needs_on_the_compute_device(sampler: Sampler, comfyui: ComfyUI) -> None:
    mm = model_management()
    comfyui.machine.configure([int(mm.minimum_inference_memory()) + 4 * MB, 64 * MB, 64 * MB])
    split = sampler.split(**MODES["auto"])
    sampler.picture(split)
    held = comfyui.held_bytes()
    assert 0 < held[0] <= 4 * MB
    assert split.multigpu_placement.distribution.plan.offloaded


@pytest.mark.parametrize(("string", "gives_back"), [("auto", True), ("npu:0,90%;npu:1,10%", False)])
def test_only_auto_gives_back_what_comfyui_has_granted_too_little_for(
    sampler: Sampler, comfyui: ComfyUI, string: str, gives_back: bool
) -> None:
    split = sampler.split(expert_mode_allocations=string)
    sampler.picture(split)
    held = comfyui.held_bytes()[0]
    split.multigpu_placement.load(split, 1.0 * MB)
    assert comfyui.held_bytes()[0] == held, "enough is granted"
    split.multigpu_placement.load(split, -1.0 * MB)
    assert (comfyui.held_bytes()[0] <= held - MB) is gives_back
    assert gives_back or comfyui.held_bytes()[0] == held


@pytest.mark.parametrize(
    ("string", "hint"),
    [("npu:0,2xb", "2xb"), ("npu:7,50%;cpu,50%", "npu:0"), ("npu:0 50%", "comma"), (";;", "")],
)
def test_a_wrong_string_fails_at_the_node_and_nothing_is_loaded(
    sampler: Sampler, comfyui: ComfyUI, string: str, hint: str
) -> None:
    with pytest.raises(AllocationError) as error:
        sampler.split(expert_mode_allocations=string)
    assert string in str(error.value) and hint in str(error.value)
    assert not model_management().current_loaded_models


def test_with_neither_string_nor_virtual_vram_it_is_an_ordinary_load(sampler: Sampler) -> None:
    import comfy.model_patcher

    model = sampler.split(virtual_vram_gb=0.0)
    assert type(model) is comfy.model_patcher.ModelPatcher
