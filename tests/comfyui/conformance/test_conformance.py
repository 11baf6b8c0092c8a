"""The conformance kit: our own plugins keep it, and each thing that can be wrong is told."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from multigpu import hookimpl
from multigpu.hookspecs import DevicePart, NodeVariant, WrappedLoader, split_and_device
from multigpu.multigpu_core.provisioning import tiny_models
from multigpu.testing import ConformanceError, LoaderTrial, check_loader, check_plugin

from ..support.gguf_files import write_gguf_files
from ..support.in_process import ComfyUI, variants_of
from ..support.outputs import computed
from ..support.packs_at_hand import stand_in

CORE: dict[str, dict[str, Any]] = {
    "VAELoader": {"vae_name": "vae.safetensors"},
    "CLIPLoader": {"clip_name": "clip_l.safetensors", "type": "stable_diffusion"},
}
INTEGRATIONS = ("florence2", "gguf", "hunyuan", "ltx", "mmaudio", "nf4", "pulid", "wanvideo", "xflux")
FILES = {"ckpt_name": "small.safetensors", "ltxv_path": "flux.safetensors", "unet_name": "q8_0.gguf"}
NOT_DRIVEN = {
    **dict.fromkeys(
        ("CLIPLoaderGGUF", "DualCLIPLoaderGGUF", "TripleCLIPLoaderGGUF", "QuadrupleCLIPLoaderGGUF"),
        "the stand-in has no text encoders",
    ),
    "PulidInsightFaceLoader": "a face analysis is no module, and its device is in a session of onnxruntime",
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
    checkpoint = {f"model.diffusion_model.{name}": value for name, value in weights.items()}
    checkpoint |= {f"vae.{name}": value for name, value in tiny_models.vae_weights().items()}
    tiny_models.write(started_comfyui.models / "checkpoints" / "small.safetensors", checkpoint)
    write_gguf_files(started_comfyui.models / "diffusion_models")


@pytest.mark.parametrize("target", CORE)
def test_core_s_loaders_keep_it(comfyui: ComfyUI, target: str) -> None:
    plugin = importlib.import_module("multigpu.integrations.comfy_core")
    loader = comfyui.nodes.NODE_CLASS_MAPPINGS[target]
    check_loader(plugin, LoaderTrial(target, loader, CORE[target], lambda outputs: computed(comfyui, outputs)), comfyui)


def loaders_of(integration: str) -> list[str]:
    """The loaders that an integration wraps, without nodes that only use a model, and without core's."""
    plugin = importlib.import_module(f"multigpu.integrations.{integration}")
    return [loader.target for loader in plugin.multigpu_wrap_loader() if loader.makes_models]


@pytest.mark.parametrize(("name", "target"), [(name, target) for name in INTEGRATIONS for target in loaders_of(name)])
def test_our_integrations_keep_it_on_stand_ins_for_their_packs(comfyui: ComfyUI, name: str, target: str) -> None:
    if target in NOT_DRIVEN:
        pytest.skip(NOT_DRIVEN[target])
    variants_of(comfyui, stand_in(name), name)
    loader = comfyui.nodes.NODE_CLASS_MAPPINGS[target]
    trial = LoaderTrial(target, loader, _first_choices(loader))
    check_loader(importlib.import_module(f"multigpu.integrations.{name}"), trial, comfyui)


def _first_choices(loader: type[Any]) -> dict[str, Any]:
    """What the inputs of a loader are when a user has not touched them; our files where it wants files."""
    sections = loader.INPUT_TYPES()
    listed = {name: spec for key in ("required", "optional") for name, spec in sections.get(key, {}).items()}
    choices: dict[str, Any] = {}
    for name, spec in listed.items():
        options = spec[1] if len(spec) > 1 else {}
        combo = spec[0] if isinstance(spec[0], list) else options.get("options")
        if name in FILES:
            choices[name] = FILES[name]
        elif combo or options.get("default") is not None:
            choices[name] = combo[0] if combo else options["default"]
    return choices


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


def test_a_split_that_moves_nothing_is_found(comfyui: ComfyUI) -> None:
    def load(self: FluxLoader, **inputs: Any) -> Any:
        mm, patchers = (importlib.import_module(f"comfy.{name}") for name in ("model_management", "model_patcher"))
        model = torch.nn.Module()
        model.blocks = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(4))
        return (patchers.ModelPatcher(model, mm.get_torch_device(), mm.unet_offload_device()),)

    bare = type("SingleLayers", (FluxLoader,), {"load": load})
    with pytest.raises(ConformanceError, match=r"the split of output 0 moves nothing") as found:
        check_loader(Plugin(), replace(TRIAL, loader=bare), comfyui)
    assert len(found.value.problems) == 1


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
