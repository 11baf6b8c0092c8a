"""A split model among other nodes: merging, saving, core's device nodes, LoRA hooks, and its file split anew."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from ..support.dynamic_vram import switch_on
from ..support.in_process import ComfyUI
from ..support.split_models import MODES, THIRDS, Sampler, model_management, weights_of, write_split_models

EVENLY = {"expert_mode_allocations": "npu:0,40%;npu:2,60%"}


@pytest.fixture
def sampler(comfyui: ComfyUI) -> Sampler:
    write_split_models(comfyui)
    return Sampler(comfyui, "flux")


def test_two_prompts_in_a_row_with_different_splits_of_one_file_give_the_same_picture(
    sampler: Sampler, comfyui: ComfyUI
) -> None:
    expected = sampler.picture(sampler.whole())
    comfyui.reset()
    for wishes in (THIRDS, EVENLY, MODES["relay"], THIRDS):
        split = sampler.split(**wishes)
        assert torch.equal(sampler.picture(split), expected)


def _merged(comfyui: ComfyUI, first: Any, second: Any) -> Any:
    merging = importlib.import_module("comfy_extras.nodes_model_merging")
    (merged,) = merging.ModelMergeSimple().merge(first, second, 0.3)
    return merged


@pytest.mark.parametrize("is_loaded", [False, True])
def test_split_models_merge_as_whole_ones_do(sampler: Sampler, comfyui: ComfyUI, is_loaded: bool) -> None:
    expected = sampler.picture(_merged(comfyui, sampler.whole(), sampler.with_lora(sampler.whole(), 0.7)))
    comfyui.reset()
    first, second = sampler.split(**THIRDS), sampler.with_lora(sampler.split(**EVENLY), 0.7)
    if is_loaded:
        model_management().load_models_gpu([first, second])
    assert torch.equal(sampler.picture(_merged(comfyui, first, second)), expected)


def test_saving_a_split_model_saves_the_weights_of_its_file(sampler: Sampler, comfyui: ComfyUI) -> None:
    saving = importlib.import_module("comfy.sd")
    file = comfyui.models.parent / "saved.safetensors"
    split = sampler.split(**THIRDS)
    sampler.picture(split)
    saving.save_checkpoint(str(file), split)
    saved = importlib.import_module("comfy.utils").load_torch_file(str(file))
    prefix = "model."
    weights = {name: weight for name, weight in weights_of(sampler.whole()).items() if prefix + name in saved}
    assert len(weights) > 20
    assert all(torch.equal(saved[prefix + name], weight) for name, weight in weights.items())


@pytest.mark.parametrize("wishes", [THIRDS, MODES["relay"]], ids=["streamed", "relayed"])
def test_saving_a_split_model_with_a_lora_saves_what_the_whole_one_does(
    sampler: Sampler, comfyui: ComfyUI, wishes: dict[str, Any]
) -> None:
    saving, utils = importlib.import_module("comfy.sd"), importlib.import_module("comfy.utils")

    def saved(model: Any, name: str) -> dict[str, torch.Tensor]:
        file = comfyui.models.parent / f"{name}.safetensors"
        saving.save_checkpoint(str(file), sampler.with_lora(model, 0.7))
        weights: dict[str, torch.Tensor] = utils.load_torch_file(str(file))
        return weights

    expected = saved(sampler.whole(), "whole with lora")
    comfyui.reset()
    split = saved(sampler.split(**wishes), "split with lora")
    assert split.keys() == expected.keys()
    assert [name for name, weight in expected.items() if not torch.equal(split[name], weight)] == []


def test_block_weight_hooks_of_a_lora_give_the_picture_of_the_whole_model(sampler: Sampler, comfyui: ComfyUI) -> None:
    hooks, utils = importlib.import_module("comfy.hooks"), importlib.import_module("comfy.utils")
    lora = utils.load_torch_file(str(comfyui.models / "loras" / "two blocks.safetensors"))

    def picture(model: Any) -> torch.Tensor:
        from ..support.outputs import conditioning

        (prompt,) = conditioning()
        prompt[1]["hooks"] = hooks.create_hook_lora(lora=lora, strength_model=0.8, strength_clip=0.0)
        latent = {"samples": torch.zeros(1, 16, 4, 4)}
        result = comfyui.nodes.common_ksampler(model, 5, 2, 1.0, "euler", "simple", [prompt], conditioning(), latent)
        samples: torch.Tensor = result[0]["samples"]
        return samples

    expected = picture(sampler.whole())
    comfyui.reset()
    assert not torch.equal(expected, sampler.picture(sampler.whole(), steps=2))
    comfyui.reset()
    assert torch.equal(picture(sampler.split(**THIRDS)), expected)


def _needs(comfyui: ComfyUI, node_id: str) -> None:
    if node_id not in comfyui.nodes.NODE_CLASS_MAPPINGS:
        pytest.skip(f"this ComfyUI has no {node_id}")


def test_select_model_device_moves_a_split_model_whole_to_the_device(sampler: Sampler, comfyui: ComfyUI) -> None:
    _needs(comfyui, "SelectModelDevice")
    expected = sampler.picture(sampler.whole())
    comfyui.reset()
    split = sampler.split(**THIRDS)
    assert torch.equal(sampler.picture(split), expected)
    (moved,) = comfyui.run("SelectModelDevice", model=split, device="gpu:2")
    assert str(moved.load_device) == "npu:2"
    assert moved.model_size() == sampler.whole().model_size(), "what ComfyUI makes room for"
    assert torch.equal(sampler.picture(moved), expected)
    assert torch.equal(sampler.picture(split), expected), "the split one is as it was"


def test_select_model_device_moves_a_split_model_under_dynamic_vram_too(
    sampler: Sampler, comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    _needs(comfyui, "SelectModelDevice")
    expected = sampler.picture(sampler.whole())
    comfyui.reset()
    switch_on(monkeypatch, comfyui.machine)
    (moved,) = comfyui.run("SelectModelDevice", model=sampler.split(**THIRDS), device="gpu:2")
    assert torch.equal(sampler.picture(moved), expected)


def test_select_model_device_on_the_split_model_s_own_device_leaves_it_split(
    sampler: Sampler, comfyui: ComfyUI
) -> None:
    _needs(comfyui, "SelectModelDevice")
    split = sampler.split(**THIRDS)
    (same,) = comfyui.run("SelectModelDevice", model=split, device="gpu:0")
    sampler.picture(same)
    assert comfyui.held_bytes()[1] > 0


def test_select_model_device_cpu_on_a_split_model_is_refused_with_what_to_set_and_nothing_is_lost(
    sampler: Sampler, comfyui: ComfyUI
) -> None:
    _needs(comfyui, "SelectModelDevice")
    split = sampler.split(**THIRDS)
    expected = sampler.picture(split)
    (told,) = comfyui.run("SelectModelDevice", model=split, device="cpu")
    with pytest.raises(RuntimeError, match=r"sets this split model to compute on cpu.* set compute_device"):
        sampler.picture(told)
    assert torch.equal(sampler.picture(split), expected)


def test_cfg_split_over_two_cards_gives_the_picture_of_one(sampler: Sampler, comfyui: ComfyUI) -> None:
    _needs(comfyui, "MultiGPU_WorkUnits")
    if importlib.import_module("comfyui_version").__version__ < "0.30":
        pytest.skip("its CFG split leaves a part of a second split model on the cpu")

    def picture(model: Any) -> torch.Tensor:
        from ..support.outputs import conditioning

        latent, prompt = {"samples": torch.zeros(1, 16, 4, 4)}, conditioning()
        negative = [[prompt[0][0] * 0.5, prompt[0][1]]]
        result = comfyui.nodes.common_ksampler(model, 5, 1, 3.0, "euler", "simple", prompt, negative, latent)
        samples: torch.Tensor = result[0]["samples"]
        return samples

    (core,) = comfyui.run("MultiGPU_WorkUnits", model=sampler.whole(), max_gpus=2)
    expected = picture(core)
    comfyui.reset()
    (doubled,) = comfyui.run("MultiGPU_WorkUnits", model=sampler.split(**THIRDS), max_gpus=2)
    assert torch.equal(picture(doubled), expected)


@pytest.mark.parametrize("mode", ["ratio", "relay"])
@pytest.mark.parametrize("what", ["the whole model", "each block"])
def test_a_compiled_split_model_gives_the_picture_of_the_compiled_whole_one(
    sampler: Sampler, comfyui: ComfyUI, mode: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ComfyUI's TorchCompileModel node does this with the backends of real cards."""
    try:
        compiling = importlib.import_module("comfy_api.torch_helpers")
    except ModuleNotFoundError:
        pytest.skip("this ComfyUI has no helper to compile")

    # The fused attention of simulated cards cannot be traced.
    attention = importlib.import_module("comfy.ldm.modules.attention").attention_basic
    monkeypatch.setattr(importlib.import_module("comfy.ldm.flux.math"), "optimized_attention", attention)

    def compiled(model: Any) -> Any:
        clone, keys = model.clone(), None
        if what == "each block":
            keys = [f"diffusion_model.double_blocks.{index}" for index in range(2)]
        compiling.set_torch_compile_wrapper(model=clone, backend="eager", keys=keys or ["diffusion_model"])
        return clone

    expected = sampler.picture(compiled(sampler.whole()))
    comfyui.reset()
    torch._dynamo.reset()
    assert torch.equal(sampler.picture(compiled(sampler.split(**MODES[mode]))), expected)
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", ["diff", "set"])
def test_patches_that_other_packs_add_to_weights_give_the_picture_of_the_whole_model(
    sampler: Sampler, comfyui: ComfyUI, kind: str
) -> None:
    def patched(model: Any) -> Any:
        clone, generator = model.clone(), torch.Generator().manual_seed(8)
        keys = ("diffusion_model.double_blocks.1.img_mlp.0.weight", "diffusion_model.single_blocks.3.linear2.bias")
        for key in keys:
            shape = clone.model.state_dict()[key].shape
            assert clone.add_patches({key: (kind, (torch.randn(shape, generator=generator) / 30,))}, 0.9)
        return clone

    expected = sampler.picture(patched(sampler.whole()))
    comfyui.reset()
    assert not torch.equal(expected, sampler.picture(sampler.whole()))
    comfyui.reset()
    for wishes in (THIRDS, MODES["relay"]):
        assert torch.equal(sampler.picture(patched(sampler.split(**wishes))), expected)
