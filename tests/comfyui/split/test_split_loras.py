"""LoRAs on a split model: added, stacked, changed and removed between pictures."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from ..support.in_process import ComfyUI
from ..support.outputs import conditioning, sampled
from ..support.split_models import THIRDS, Sampler, write_split_models


@pytest.fixture
def sampler(comfyui: ComfyUI) -> Sampler:
    write_split_models(comfyui)
    return Sampler(comfyui, "flux")


def test_a_cycle_of_loras_gives_the_pictures_of_one_device(sampler: Sampler) -> None:
    whole, split = sampler.whole(), sampler.split(**THIRDS)
    for strengths in [(0.5, 0.0), (0.5, 0.8), (0.9, 0.8), (0.0, 0.8), (0.0, 0.0), (-0.4, 1.5)]:
        pictures = []
        for model in (whole, split):
            for lora, strength in zip(("flux", "two blocks"), strengths, strict=True):
                if strength:
                    model = sampler.with_lora(model, strength, lora)
            pictures.append(sampler.picture(model))
        assert torch.equal(*pictures), strengths


def test_a_new_strength_touches_only_the_blocks_that_the_lora_patches(sampler: Sampler) -> None:
    split = sampler.split(**THIRDS)
    sampler.picture(sampler.with_lora(split, 0.5, "two blocks"))
    before = dict(split.model.named_parameters())
    sampler.picture(sampler.with_lora(split, 0.9, "two blocks"))
    touched = {name for name, value in split.model.named_parameters() if value is not before[name]}
    assert touched
    assert all("double_blocks.1." in name or "single_blocks.2." in name for name in touched)


def test_weights_as_they_were_before_a_lora_take_no_page_locked_memory(
    sampler: Sampler, comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = comfyui.framework.context.host.pinned
    split = sampler.split(expert_mode_allocations="npu:0,20%;cpu,80%")
    plain = sampler.picture(split)
    without, peak, allocate = locked.locked_bytes, 0, type(locked).allocate

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal peak
        memory = allocate(self, *args, **kwargs)
        peak = max(peak, locked.locked_bytes)
        return memory

    monkeypatch.setattr(type(locked), "allocate", noted)
    largest = max(placement.block.size_bytes for placement in split.multigpu_placement.distribution.plan.streamed)
    for strength in (0.5, 0.9):
        sampler.picture(sampler.with_lora(split, strength))
        assert locked.locked_bytes == without
        assert without < peak < without + 1.1 * largest, "the new block beside the old one"
    assert torch.equal(sampler.picture(split), plain)


def test_the_lora_that_stays_is_not_applied_again(sampler: Sampler) -> None:
    split = sampler.with_lora(sampler.split(**THIRDS), 0.5, "flux")
    sampler.picture(split)
    before = dict(split.model.named_parameters())
    sampler.picture(sampler.with_lora(split, 0.9, "two blocks"))
    touched = {name for name, value in split.model.named_parameters() if value is not before[name]}
    assert touched
    assert all("double_blocks.1." in name or "single_blocks.2." in name for name in touched)


def test_the_same_model_again_moves_no_weight(sampler: Sampler, comfyui: ComfyUI) -> None:
    split = sampler.with_lora(sampler.split(**THIRDS), 0.5)
    sampler.picture(split)
    before = dict(split.model.named_parameters())
    sampler.picture(split.clone())
    assert all(value is before[name] for name, value in split.model.named_parameters())


def test_a_clone_is_split_also_where_the_loader_s_patcher_sets_its_own_class_on_clones(sampler: Sampler) -> None:
    patchers = importlib.import_module("multigpu.multigpu_core.comfy.split.patcher")
    split = sampler.split(**THIRDS)
    placement = split.multigpu_placement
    patchers.undistribute(split)

    class Own(type(split)):  # type: ignore[misc]
        def clone(self, *args: Any, **kwargs: Any) -> Any:
            cloned = super().clone(*args, **kwargs)
            cloned.__class__ = Own
            return cloned

    split.__class__ = Own
    patchers.distribute(split, placement, torch.device("npu:0"))
    cloned = sampler.with_lora(split, 0.5)
    assert patchers.placement_of(cloned) is placement


def test_low_precision_loras_are_patched_where_the_weight_is_stored(sampler: Sampler, comfyui: ComfyUI) -> None:
    expected = sampler.picture(sampler.with_lora(sampler.whole(), 0.5))
    plain = sampler.picture(sampler.whole())
    comfyui.reset()
    split = sampler.split(expert_mode_allocations="npu:1,100%", high_precision_loras=False)
    picture = sampler.picture(sampler.with_lora(split, 0.5))
    assert not torch.equal(picture, plain)
    assert torch.allclose(picture, expected, atol=0.2)
    block = split.multigpu_placement.distribution.plan.offloaded[0].block
    assert {copy.source for copy in comfyui.machine.copies.records if copy.destination == "npu:1"} == {"cpu"}, (
        f"{block.name} and the others never passed through the compute device"
    )


def test_weights_patched_by_hooks_are_the_same_as_on_one_device(sampler: Sampler, comfyui: ComfyUI) -> None:
    """A LoRA that a hook applies during sampling, as core's Create Hook LoRA makes it."""
    import comfy.hooks
    import comfy.utils

    lora = comfy.utils.load_torch_file(str(comfyui.models / "loras" / "flux.safetensors"))
    pictures = []
    for model in (sampler.whole(), sampler.split(**THIRDS)):
        hooks = comfy.hooks.create_hook_lora(lora=lora, strength_model=0.8, strength_clip=0.0)
        prompt = comfy.hooks.set_hooks_for_conditioning(conditioning(), hooks)
        pictures.append(sampled(comfyui, model, prompt))
        assert not torch.equal(sampler.picture(model), pictures[-1])
    assert torch.equal(*pictures)


def test_a_lora_is_in_the_weights_again_after_the_model_was_unloaded(sampler: Sampler, comfyui: ComfyUI) -> None:
    split = sampler.with_lora(sampler.split(**THIRDS), 0.5)
    expected = sampler.picture(split)
    comfyui.reset()
    assert torch.equal(sampler.picture(split), expected)


def test_high_precision_loras_are_patched_on_the_compute_device(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sampler.with_lora(sampler.split(**THIRDS), 0.5)
    patch, devices = type(model).patch_weight_to_device, set()

    def noted(self: Any, key: str, device_to: Any = None, **kwargs: Any) -> Any:
        devices.add(str(device_to))
        return patch(self, key, device_to=device_to, **kwargs)

    monkeypatch.setattr(type(model), "patch_weight_to_device", noted)
    sampler.picture(model)
    assert devices == {"npu:0"}
    assert model.model.current_weight_patches_uuid == model.patches_uuid
