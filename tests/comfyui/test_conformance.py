"""The conformance kit: our own plugins keep it, and each thing that can be wrong is told."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from multigpu import hookimpl
from multigpu.hookspecs import DevicePart, NodeVariant, WrappedLoader, split_and_device
from multigpu.multigpu_core.testing import tiny_models
from multigpu.testing import ConformanceError, LoaderTrial, check_loader, check_plugin

from .inprocess import ComfyUI, variants_of
from .outputs import computed

PACKS = Path(__file__).parent / "packs"
CORE: dict[str, dict[str, Any]] = {
    "VAELoader": {"vae_name": "vae.safetensors"},
    "CLIPLoader": {"clip_name": "clip_l.safetensors", "type": "stable_diffusion"},
}
CARRIED: dict[str, tuple[str, dict[str, Any]]] = {
    "florence2": ("Florence2ModelLoader", {"model": "a", "precision": "fp32", "attention": "sdpa"}),
    "mmaudio": ("MMAudioModelLoader", {"mmaudio_model": "a", "base_precision": "fp32"}),
}
FLUX = {"unet_name": "small.safetensors", "weight_dtype": "default"}


class FluxLoader:
    """As packs write theirs; the tests spoil it."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802  # ComfyUI's name
        return {"required": {"unet_name": (["small.safetensors"],), "weight_dtype": (["default"],)}}

    def load(self, **inputs: Any) -> Any:
        return importlib.import_module("nodes").UNETLoader().load_unet(**inputs)


class Plugin:
    """Wraps FluxLoader in the variants that a test gives it."""

    def __init__(self, *variants: NodeVariant) -> None:
        self._variants = variants or split_and_device("FluxLoader")

    @hookimpl
    def multigpu_wrap_loader(self) -> Iterator[WrappedLoader]:
        yield WrappedLoader("FluxLoader", self._variants)


TRIAL = LoaderTrial("FluxLoader", FluxLoader, FLUX)
DEVICE = split_and_device("FluxLoader")[0]


@pytest.fixture(scope="module", autouse=True)
def small_model(started_comfyui: ComfyUI) -> None:
    weights = tiny_models.flux_weights(tiny_models.FluxShape(double_blocks=1, single_blocks=2))
    tiny_models.write(started_comfyui.models / "diffusion_models" / "small.safetensors", weights)


@pytest.mark.parametrize("target", CORE)
def test_core_s_loaders_keep_it(comfyui: ComfyUI, target: str) -> None:
    plugin = importlib.import_module("multigpu.integrations.comfy_core")
    loader = comfyui.nodes.NODE_CLASS_MAPPINGS[target]
    check_loader(plugin, LoaderTrial(target, loader, CORE[target], lambda outputs: computed(comfyui, outputs)), comfyui)


@pytest.mark.parametrize("name", CARRIED)
def test_our_integrations_keep_it_on_stand_ins_for_their_packs(comfyui: ComfyUI, name: str) -> None:
    variants_of(comfyui, PACKS / name, name)
    target, inputs = CARRIED[name]
    trial = LoaderTrial(target, comfyui.nodes.NODE_CLASS_MAPPINGS[target], inputs)
    check_loader(importlib.import_module(f"multigpu.integrations.{name}"), trial, comfyui)


def test_an_outsider_s_loader_keeps_it(comfyui: ComfyUI) -> None:
    check_loader(Plugin(), TRIAL, comfyui)


def _captures_its_device(loader: FluxLoader, **inputs: Any) -> Any:
    return ({"model": torch.nn.Linear(2, 2).to("npu:0")},)


def _leaks(loader: FluxLoader, **inputs: Any) -> Any:
    mm = importlib.import_module("comfy.model_management")
    LEAKED.append(torch.ones(1000, device=mm.get_torch_device()))
    if str(mm.get_torch_device()) == "npu:0":
        LEAKED.clear()
    return FluxLoader.load(loader, **inputs)


def _depends_on_the_device(loader: FluxLoader, **inputs: Any) -> Any:
    mm = importlib.import_module("comfy.model_management")
    (model,) = FluxLoader.load(loader, **inputs)
    with torch.no_grad():
        next(model.model.parameters()).add_(1 if str(mm.get_torch_device()) == "npu:1" else 0)
    return (model,)


LEAKED: list[torch.Tensor] = []
SPOILT: dict[str, tuple[Callable[..., Any], str]] = {
    "puts its model where it always did": (_captures_its_device, "was loaded for npu:1 and lies on npu:0"),
    "keeps memory": (_leaks, "after unloading, accelerators still hold"),
    "computes something else": (_depends_on_the_device, "on npu:1 it computes something else"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_loader_whose_variants_break_a_promise_is_found(comfyui: ComfyUI, how: str) -> None:
    load, problem = SPOILT[how]
    spoilt = type("Spoilt", (FluxLoader,), {"load": load})
    with pytest.raises(ConformanceError, match=problem):
        check_loader(Plugin(DEVICE), replace(TRIAL, loader=spoilt), comfyui)
    LEAKED.clear()


def test_a_variant_that_splits_what_has_no_managed_weights_is_found(comfyui: ComfyUI) -> None:
    bare = type("Bare", (FluxLoader,), {"load": lambda self, **_: (torch.nn.Linear(2, 2),)})
    with pytest.raises(ConformanceError, match="FluxLoaderDisTorch2MultiGPU: NotSplittableError"):
        check_loader(Plugin(), replace(TRIAL, loader=bare), comfyui)


def test_a_loader_that_leaves_its_pack_s_device_changed_is_found(comfyui: ComfyUI, monkeypatch: Any) -> None:
    module = importlib.import_module(__name__)
    monkeypatch.setattr(module, "device", torch.device("cpu"), raising=False)

    class Setting(FluxLoader):
        def load(self, **inputs: Any) -> Any:
            mm = importlib.import_module("comfy.model_management")
            monkeypatch.setattr(module, "device", mm.get_torch_device(), raising=False)
            return super().load(**inputs)

    with pytest.raises(ConformanceError, match=r"leaves .*\.device as npu:1; it was npu:0"):
        check_loader(Plugin(DEVICE), replace(TRIAL, loader=Setting), comfyui)


def test_a_target_that_the_plugin_does_not_know_is_told(comfyui: ComfyUI) -> None:
    with pytest.raises(ConformanceError, match="no variants for OtherLoader"):
        check_loader(Plugin(), replace(TRIAL, target="OtherLoader"), comfyui)


@pytest.mark.parametrize(
    ("variants", "problem"),
    [
        ((DEVICE, DEVICE), "2 nodes have this id"),
        ((replace(DEVICE, node_id="FluxLoader"),), "a node id of its own"),
        ((replace(DEVICE, parts=(DevicePart((0, 1)), DevicePart((1,), prefix="b_"))),), r"outputs \[1\]"),
        ((replace(DEVICE, parts=(DevicePart((0,)), DevicePart((1,)))),), "give the parts a prefix"),
        ((replace(DEVICE, parts=(DevicePart((0,), section="hidden"),)),), "no section 'hidden'"),
        ((replace(DEVICE, parts=(DevicePart((), splits=True),)),), "the output that is split"),
    ],
)
def test_nodes_that_cannot_exist_beside_each_other_are_found(variants: tuple[NodeVariant, ...], problem: str) -> None:
    with pytest.raises(ConformanceError, match=problem):
        check_plugin(Plugin(*variants))


def test_a_plugin_that_multigpu_refuses_is_refused_with_the_same_words() -> None:
    with pytest.raises(ConformanceError, match="implements no hook"):
        check_plugin(object())
