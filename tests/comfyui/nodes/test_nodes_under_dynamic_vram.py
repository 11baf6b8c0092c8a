"""With DynamicVRAM on, a split model gets a patcher that obeys the split, and all others stay dynamic.

The patchers are ComfyUI's own; the driver under them is a stand-in.
"""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from ..support.dynamic_vram import switch_on
from ..support.in_process import ComfyUI
from ..support.outputs import computed, sampled

FLUX = {"unet_name": "flux.safetensors", "weight_dtype": "default"}
SPLIT = {"compute_device": "npu:1", "expert_mode_allocations": "npu:1,50%;cpu,50%"}


@pytest.fixture
def dynamic(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> type:
    """The class that ComfyUI makes its patchers of."""
    return switch_on(monkeypatch, comfyui.machine)


def _devices(output: Any) -> set[str]:
    return {str(parameter.device) for parameter in output.parameters()}


def test_a_split_model_becomes_plain_and_is_really_split(comfyui: ComfyUI, dynamic: type) -> None:
    import comfy.model_patcher

    (model,) = comfyui.run("UNETLoaderDisTorch2MultiGPU", **FLUX, **SPLIT)
    assert not model.is_dynamic() and not isinstance(model, dynamic)
    (latent,) = computed(comfyui, [model])
    assert latent.isfinite().all()
    assert _devices(model.model) == {"npu:1", "cpu"}
    assert comfy.model_patcher.CoreModelPatcher is dynamic, "the next loader makes dynamic patchers again"


def test_models_that_are_not_split_stay_dynamic(comfyui: ComfyUI, dynamic: type) -> None:
    for node, inputs in (
        ("UNETLoader", {}),
        ("UNETLoaderMultiGPU", {"device": "npu:1"}),
        ("UNETLoaderDisTorch2MultiGPU", {"compute_device": "npu:1"}),
    ):
        (model,) = comfyui.run(node, **FLUX, **inputs)
        assert type(model) is dynamic, node


def test_of_a_checkpoint_only_the_split_part_becomes_plain(comfyui: ComfyUI, dynamic: type) -> None:
    outputs = comfyui.run("CheckpointLoaderSimpleDisTorch2MultiGPU", ckpt_name="flux.safetensors", **SPLIT)
    model, clip, vae = outputs
    assert not model.is_dynamic()
    assert type(clip.patcher) is dynamic and type(vae.patcher) is dynamic
    assert comfyui.held_bytes() == [0, 0, 0]
    assert [device.peak_bytes for device in comfyui.machine.devices] == [0, 0, 0], "the second load is on the cpu too"
    assert all(value.isfinite().all() for value in computed(comfyui, [model]))
    assert _devices(model.model) == {"npu:1", "cpu"}


def test_a_split_text_encoder_becomes_plain_together_with_what_holds_it(comfyui: ComfyUI, dynamic: type) -> None:
    (model, clip, _) = comfyui.run(
        "CheckpointLoaderAdvancedDisTorch2MultiGPU",
        ckpt_name="flux.safetensors",
        unet_compute_device="npu:0",
        clip_compute_device="npu:1",
        clip_expert_mode_allocations="npu:1,50%;npu:2,50%",
        vae_device="npu:0",
    )
    assert type(model) is dynamic
    assert clip.cond_stage_model is clip.patcher.model and not clip.patcher.is_dynamic()
    assert all(value.isfinite().all() for value in computed(comfyui, [clip]))
    assert _devices(clip.cond_stage_model) == {"npu:1", "npu:2"}


def test_a_dynamic_model_whose_loader_leaves_no_way_back_is_loaded_by_that_loader_again(
    comfyui: ComfyUI, dynamic: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = comfyui.nodes.CheckpointLoaderSimple.load_checkpoint

    def without_a_way_back(self: Any, ckpt_name: str) -> Any:
        outputs = core(self, ckpt_name)
        outputs[0].cached_patcher_init = None
        return outputs

    monkeypatch.setattr(comfyui.nodes.CheckpointLoaderSimple, "load_checkpoint", without_a_way_back)
    model, *_ = comfyui.run("CheckpointLoaderSimpleDisTorch2MultiGPU", ckpt_name="flux.safetensors", **SPLIT)
    assert not model.is_dynamic()
    computed(comfyui, [model])
    assert len(model.multigpu_placement.distribution.bytes_by_device()) > 1


def test_a_dynamic_model_on_the_cpu_becomes_plain(comfyui: ComfyUI, dynamic: type) -> None:
    """DynamicVRAM is about video memory; a model that computes on the cpu has none."""
    (model,) = comfyui.run("UNETLoaderMultiGPU", **FLUX, device="cpu")
    assert not model.is_dynamic() and model.load_device == torch.device("cpu")
    computed(comfyui, [model])
    assert [device.peak_bytes for device in comfyui.machine.devices] == [0, 0, 0]


def test_a_split_model_gives_the_picture_of_the_dynamic_whole_one(comfyui: ComfyUI, dynamic: type) -> None:
    """The file has float32, the model computes in another dtype: DynamicVRAM leaves the cast to its operators."""
    (whole,) = comfyui.run("UNETLoader", **FLUX)
    expected = sampled(comfyui, whole)
    comfyui.reset()
    (split,) = comfyui.run("UNETLoaderDisTorch2MultiGPU", **FLUX, **SPLIT)
    (of_checkpoint, *_) = comfyui.run("CheckpointLoaderSimpleDisTorch2MultiGPU", ckpt_name="flux.safetensors", **SPLIT)
    for model in (split, of_checkpoint):
        assert torch.equal(sampled(comfyui, model), expected)


def test_a_split_model_has_the_dtype_that_its_loader_was_asked_for(comfyui: ComfyUI, dynamic: type) -> None:
    eight_bits = FLUX | {"weight_dtype": "fp8_e4m3fn"}
    (model,) = comfyui.run("UNETLoaderDisTorch2MultiGPU", **eight_bits, **SPLIT)
    assert {weight.dtype for weight in model.model.parameters()} == {torch.float8_e4m3fn}


def test_a_model_on_the_cpu_computes_as_it_does_without_dynamic_vram(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def picture() -> torch.Tensor:
        (model,) = comfyui.run("UNETLoaderMultiGPU", **FLUX, device="cpu")
        return sampled(comfyui, model)

    expected = picture()
    comfyui.reset()
    switch_on(monkeypatch, comfyui.machine)
    assert torch.equal(picture(), expected)


def test_the_dynamic_model_that_a_split_one_was_made_of_is_gone(comfyui: ComfyUI, dynamic: type) -> None:
    model, *_ = comfyui.run("CheckpointLoaderSimpleDisTorch2MultiGPU", ckpt_name="flux.safetensors", **SPLIT)
    gc.collect()
    alive = [each for each in gc.get_objects() if type(each) is dynamic and hasattr(each.model, "diffusion_model")]
    assert alive == [] and not model.is_dynamic()
