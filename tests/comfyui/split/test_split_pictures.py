"""A split model makes the picture of one device, bit for bit, however it is split."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ..support.in_process import ComfyUI
from ..support.split_models import MODES, THIRDS, Sampler, weights_of, write_split_models

EVERYWHERE = ("flux default", "wan default")
"""Models that are split in every way; the others in one."""
CASES = [(model, mode) for model in EVERYWHERE for mode in MODES] + [
    (model, "ratio") for model in ("flux fp8_e4m3fn", "flux fp8_e5m2", "wan fp8_e4m3fn")
]


class References:
    """What one device makes of each model, without and with its LoRA; made once."""

    def __init__(self) -> None:
        self._pictures: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}

    def __call__(self, sampler: Sampler) -> tuple[Tensor, Tensor]:
        model = sampler.architecture, sampler.weight_dtype
        if model not in self._pictures:
            whole = sampler.whole()
            with_lora = sampler.with_lora(whole, 0.7, sampler.architecture)
            self._pictures[model] = sampler.picture(whole), sampler.picture(with_lora)
            sampler.comfyui.reset()
        return self._pictures[model]


@pytest.fixture(scope="module")
def references() -> References:
    return References()


@pytest.mark.parametrize(("model", "mode"), CASES)
def test_every_way_to_split_gives_the_same_picture_with_and_without_a_lora(
    comfyui: ComfyUI, references: References, model: str, mode: str
) -> None:
    write_split_models(comfyui)
    sampler = Sampler(comfyui, *model.split())
    expected, expected_with_lora = references(sampler)
    assert not torch.equal(expected, expected_with_lora)

    split = sampler.split(**MODES[mode])
    assert torch.equal(sampler.picture(split), expected)
    assert torch.equal(sampler.picture(sampler.with_lora(split, 0.7, sampler.architecture)), expected_with_lora)
    assert torch.equal(sampler.picture(split), expected), "without the LoRA again it is the first picture"


@pytest.mark.parametrize("model", EVERYWHERE)
def test_a_model_computing_on_another_card_gives_the_same_picture(
    comfyui: ComfyUI, references: References, model: str
) -> None:
    write_split_models(comfyui)
    sampler = Sampler(comfyui, *model.split())
    split = sampler.split(compute_device="npu:2", expert_mode_allocations="npu:0,50%;npu:2,50%")
    assert torch.equal(sampler.picture(split), references(sampler)[0])


def test_float32_weights_split_as_well(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.cli_args

    monkeypatch.setattr(comfy.cli_args.args, "fp32_unet", True)
    monkeypatch.setattr(comfy.cli_args.args, "force_fp32", True)
    sampler = Sampler(comfyui, "flux")
    whole = sampler.whole()
    assert {value.dtype for value in whole.model.diffusion_model.parameters()} == {torch.float32}
    expected = sampler.picture(whole)
    assert torch.equal(sampler.picture(sampler.split(**THIRDS)), expected)


def test_two_splits_of_one_file_live_side_by_side(comfyui: ComfyUI) -> None:
    sampler = Sampler(comfyui, "flux")
    expected = sampler.picture(sampler.whole())
    first = sampler.split(**THIRDS)
    second = sampler.split(compute_device="npu:2", **MODES["contiguous"])
    pictures = [sampler.picture(model) for model in (first, second, first, second)]
    assert all(torch.equal(picture, expected) for picture in pictures)
    assert all(held > 0 for held in comfyui.held_bytes())


def test_what_lies_on_each_device_is_what_the_plan_says(comfyui: ComfyUI) -> None:
    sampler = Sampler(comfyui, "flux")
    split = sampler.split(**THIRDS)
    sampler.picture(split)
    residency = split.multigpu_placement.distribution.residency()
    on_cards = {name: size for name, size in residency.bytes_by_device.items() if name != "cpu"}
    assert residency.bytes_by_device == residency.plan.bytes_by_device
    on_compute = on_cards["npu:0"] + residency.staging_bytes
    assert 0 < residency.staging_bytes <= residency.plan.staging_bytes
    assert comfyui.held_bytes() == [on_compute, on_cards["npu:1"], 0]
    assert split.loaded_size() == on_compute
    assert split.model_size() == on_cards["npu:0"] + residency.plan.staging_bytes


def test_a_step_moves_each_offloaded_block_once(comfyui: ComfyUI) -> None:
    sampler = Sampler(comfyui, "flux")
    split = sampler.split(**THIRDS)
    sampler.picture(split)
    residency = split.multigpu_placement.distribution.residency()
    offloaded = sum(placement.block.size_bytes for placement in residency.plan.offloaded)
    assert residency.step_transfer_bytes == offloaded
    comfyui.machine.copies.clear()
    sampler.picture(split, steps=3)
    weights_moved = sum(comfyui.machine.copies.bytes_moved(source, "npu:0") for source in ("cpu", "npu:1"))
    ahead = 2 * residency.staging_bytes  # for a step that was not taken, before and after
    assert 3 * offloaded <= weights_moved < 3 * offloaded + ahead + 2**20, "and beside weights little else"


def test_unloading_empties_every_device_and_gives_the_file_s_weights_back(comfyui: ComfyUI) -> None:
    sampler = Sampler(comfyui, "flux")
    split = sampler.split(**THIRDS)
    before = weights_of(split)
    sampler.picture(sampler.with_lora(split, 0.7))
    split.detach()
    assert comfyui.held_bytes() == [0, 0, 0]
    after: dict[str, Any] = weights_of(split)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {value.device.type for value in split.model.state_dict().values()} == {"cpu"}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in split.model.modules())


def test_a_model_that_nobody_uses_any_more_leaves_at_once(comfyui: ComfyUI) -> None:
    import gc

    sampler = Sampler(comfyui, "flux")
    split = sampler.split(**THIRDS)
    sampler.picture(split)
    gc.collect()
    gc.disable()
    try:
        del split
        assert [device.live_bytes for device in comfyui.machine.devices] == [0, 0, 0]
    finally:
        gc.enable()
