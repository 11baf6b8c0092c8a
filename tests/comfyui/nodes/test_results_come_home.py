"""With --gpu-only results stay in video memory: on ComfyUI's own device, whatever device computed them."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import pytest
import torch

from multigpu.hookspecs import PackDevices, split_and_device

from ..support.in_process import ComfyUI
from ..support.outputs import picture, sampled
from ..support.tiny_files import PROMPT

SPLIT = "npu:1,50%;cpu,50%"
PARTS = {
    "whole": (
        "CheckpointLoaderAdvancedMultiGPU",
        {"unet_device": "npu:1", "clip_device": "npu:1", "vae_device": "npu:1"},
    ),
    "split": (
        "CheckpointLoaderAdvancedDisTorch2MultiGPU",
        {
            "unet_compute_device": "npu:1",
            "unet_expert_mode_allocations": SPLIT,
            "clip_compute_device": "npu:1",
            "clip_expert_mode_allocations": SPLIT,
            "vae_device": "npu:1",
        },
    ),
}


@pytest.fixture(autouse=True)
def gpu_only(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    """ComfyUI with --gpu-only, and with the current devices that it sets on CUDA cards."""
    mm = importlib.import_module("comfy.model_management")
    monkeypatch.setattr(importlib.import_module("comfy.cli_args").args, "gpu_only", True)
    if hasattr(mm, "cuda_device_context"):
        monkeypatch.setattr(mm, "cuda_device_context", comfyui.machine.module.device)


class Asking:
    """A node of a pack that asks ComfyUI where its result is wanted."""

    RETURN_TYPES = ("STRING",)
    FUNCTION = "ask"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"model": ("ASKED_MODEL",)}}

    def ask(self, model: Any = None) -> tuple[str]:
        mm = importlib.import_module("comfy.model_management")
        return (f"{mm.get_torch_device()} {mm.intermediate_device()}",)


def _devices(values: Iterable[torch.Tensor]) -> set[str]:
    return {str(value.device) for value in values}


@pytest.mark.parametrize("variant", PARTS)
def test_every_part_of_a_checkpoint_hands_its_results_on_there(comfyui: ComfyUI, variant: str) -> None:
    node, devices = PARTS[variant]
    model, clip, vae = comfyui.run(node, ckpt_name="flux.safetensors", **devices)
    assert _devices(clip.encode_from_tokens(clip.tokenize(PROMPT), return_pooled=True)) == {"npu:0"}
    latent = vae.encode(picture())
    assert _devices((latent, vae.decode(latent))) == {"npu:0"}
    assert _devices([sampled(comfyui, model)]) == {"npu:0"}
    assert str(model.load_device) == str(clip.patcher.load_device) == str(vae.patcher.load_device) == "npu:1"


@pytest.mark.parametrize("pack", [None, PackDevices(model_types=("ASKED_MODEL",))], ids=["alone", "in a pack"])
@pytest.mark.parametrize("variant", [0, 1], ids=["on a device", "split"])
def test_a_wrapped_class_is_told_so_while_it_loads(comfyui: ComfyUI, variant: int, pack: PackDevices | None) -> None:
    make_variant = importlib.import_module("multigpu.multigpu_core.comfy.nodes.variants").make_variant
    node = make_variant(Asking, split_and_device("Asking")[variant], comfyui.framework.context, pack)
    said = node().load(model=None, **{("device", "compute_device")[variant]: "npu:1"})
    assert said == ("npu:1 npu:0",)


def test_a_pack_s_own_node_is_told_so_while_it_runs_on_a_model_s_device(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = importlib.import_module("multigpu.multigpu_core.comfy.packs.pack_nodes")
    monkeypatch.setitem(comfyui.nodes.NODE_CLASS_MAPPINGS, "Asking", Asking)
    models = comfyui.framework.context.models
    tracking = importlib.import_module("multigpu.multigpu_core.comfy.memory.tracked_models")
    model = torch.nn.Linear(1, 1)
    models.add(model, tracking.TrackedModel("Linear", ours.Devices(torch.device("npu:1"))))
    packs = ours.Packs(comfyui.framework.context.host.registry, models)
    packs.follow([Asking], PackDevices(model_types=("ASKED_MODEL",)))
    try:
        assert comfyui.run("Asking", model=model) == ("npu:1 npu:0",)
        assert comfyui.run("Asking", model=object()) == ("npu:0 npu:0",)
    finally:
        packs.restore()


def test_without_our_models_comfyui_s_own_answer_stands(comfyui: ComfyUI) -> None:
    mm = importlib.import_module("comfy.model_management")
    assert len(comfyui.framework.context.models) == 0, "an earlier test keeps a model"
    with comfyui.machine.module.device(1):
        assert str(mm.intermediate_device()) == "npu:1"


def test_comfyui_s_own_device_stays_the_default_while_a_node_of_ours_works_with_another(comfyui: ComfyUI) -> None:
    scope = importlib.import_module("multigpu.multigpu_core.comfy.host.scope")
    second = torch.device("npu:1")
    with scope.device_scope(scope.Devices(second)):
        assert comfyui.framework.context.host.default_device() == "npu:0"
