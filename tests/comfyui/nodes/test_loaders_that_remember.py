"""What a wrapped loader keeps in its own object survives between runs, as long as ComfyUI keeps our node's object."""

from __future__ import annotations

import asyncio
import gc
import importlib
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from multigpu.hookspecs import NodeVariant, split_and_device

from ..support.in_process import ComfyUI
from ..support.outputs import sampled
from ..support.split_models import model_management

FLUX = {"unet_name": "flux.safetensors"}
SPLIT = {"compute_device": "npu:1", "expert_mode_allocations": "npu:1,50%;cpu,50%"}
Wrap = Callable[[type], tuple[Any, Any]]


class Remembering:
    """A loader as packs write them: the model that it made last is on itself."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load"

    def __init__(self) -> None:
        self.made: tuple[Any, ...] | None = None
        made.append(weakref.ref(self))

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"unet_name": (["flux.safetensors"],)}}

    def load(self, unet_name: str) -> Any:
        if self.made is None:
            self.made = importlib.import_module("nodes").UNETLoader().load_unet(unet_name, "default")
        return self.made


class RememberingAsync(Remembering):
    FUNCTION = "load_async"

    async def load_async(self, unet_name: str) -> Any:
        await asyncio.sleep(0)
        return self.load(unet_name)


made: list[weakref.ref[Remembering]] = []


@pytest.fixture
def wrap(comfyui: ComfyUI) -> Wrap:
    """Makes a node of the device variant and one of the split variant of a class."""
    make_variant = importlib.import_module("multigpu.multigpu_core.comfy.nodes.variants").make_variant
    made.clear()

    def make(wrapped: type) -> tuple[Any, Any]:
        variants: tuple[NodeVariant, ...] = split_and_device(wrapped.__name__)
        device, split = (make_variant(wrapped, variant, comfyui.framework.context)() for variant in variants)
        return device, split

    return make


def _run(node: Any, **inputs: Any) -> Any:
    result = getattr(node, node.FUNCTION)(**FLUX, **inputs)
    result = asyncio.run(result) if asyncio.iscoroutine(result) else result
    return getattr(result, "args", result)[0]


def _alive() -> int:
    gc.collect()
    return sum(each() is not None for each in made)


def _loaded(model: Any) -> dict[str, int]:
    """The bytes of a loaded model on each device."""
    model_management().load_models_gpu([model])
    sizes: dict[str, int] = {}
    for weight in model.model.parameters():
        sizes[str(weight.device)] = sizes.get(str(weight.device), 0) + weight.nbytes
    return sizes


@pytest.mark.parametrize("wrapped", [Remembering, RememberingAsync])
def test_a_node_calls_the_same_object_at_every_run_on_a_device(wrap: Wrap, wrapped: type) -> None:
    node, split = wrap(wrapped)
    assert _run(node, device="npu:1") is _run(node, device="npu:1")
    assert _run(split, **SPLIT) is _run(split, **SPLIT)
    assert len(made) == 2


def test_each_device_has_an_object_of_its_own(wrap: Wrap) -> None:
    node, _ = wrap(Remembering)
    first, second, again = (_run(node, device=device) for device in ("npu:1", "npu:2", "npu:1"))
    assert first is again and first is not second and len(made) == 2
    assert set(_loaded(second)) == {"npu:2"} and set(_loaded(first)) == {"npu:1"}


def test_another_split_on_the_same_device_begins_anew(wrap: Wrap) -> None:
    _, node = wrap(Remembering)
    first = _run(node, **SPLIT)
    second = _run(node, **SPLIT | {"expert_mode_allocations": "npu:1,50%;npu:2,50%"})
    assert first is not second
    del first
    assert _alive() == 1, "what was made for the former split is in nobody's way"
    assert set(_loaded(second)) == {"npu:1", "npu:2"}


def test_the_object_goes_with_the_object_of_our_node(wrap: Wrap) -> None:
    node, split = wrap(Remembering)
    models = [_run(node, device="npu:1"), _run(split, **SPLIT)]
    assert _alive() == 2
    del node, split
    assert _alive() == 0, "a model that still lives does not hold on to its loader"
    del models


def test_comfyui_keeps_our_node_and_the_wrapped_object_until_a_prompt_is_without_the_node(
    comfyui: ComfyUI, wrap: Wrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In ComfyUI's own cache of node objects."""
    caching = importlib.import_module("comfy_execution.caching")
    graph = importlib.import_module("comfy_execution.graph")
    node = type(wrap(Remembering)[0])
    monkeypatch.setitem(comfyui.nodes.NODE_CLASS_MAPPINGS, "Remembering", node)
    cache = caching.HierarchicalCache(caching.CacheKeySetID)

    async def prompt(*node_ids: str) -> None:
        nodes = {each: {"class_type": "Remembering", "inputs": {}} for each in node_ids}
        await cache.set_prompt(graph.DynamicPrompt(nodes), list(nodes), None)
        cache.clean_unused()
        for each in node_ids:
            if await cache.get(each) is None:
                await cache.set(each, node())
            _run(await cache.get(each), device="npu:1")

    made.clear()
    for _ in range(2):
        asyncio.run(prompt("1", "2"))
    assert _alive() == 2
    asyncio.run(prompt("2"))
    assert _alive() == 1


def test_a_split_model_that_its_loader_hands_out_again_is_split_once(comfyui: ComfyUI, wrap: Wrap) -> None:
    (whole,) = comfyui.run("UNETLoaderMultiGPU", **FLUX, weight_dtype="default", device="npu:1")
    expected = sampled(comfyui, whole)
    del whole
    comfyui.reset()
    _, node = wrap(Remembering)
    model = _run(node, **SPLIT)
    kinds, wrappers, placement = type(model).__mro__, _wrappers(model), model.multigpu_placement
    assert torch.equal(sampled(comfyui, model), expected)
    for keep_loaded in (True, False):
        again = _run(node, **SPLIT, keep_loaded=keep_loaded)
        comfyui.framework.context.models.retained.release_all()
        assert (type(again).__mro__, _wrappers(again), again.multigpu_placement) == (kinds, wrappers, placement)
        ours = comfyui.framework.context.models.of(model_management().current_loaded_models[0])
        assert ours.keep_loaded is keep_loaded and ours.residency() is not None
    assert torch.equal(sampled(comfyui, again), expected)


def _wrappers(model: Any) -> dict[Any, int]:
    return {kind: sum(map(len, by_key.values())) for kind, by_key in model.wrappers.items()}


def test_a_model_that_is_loaded_once_more_for_comfyui_does_not_come_from_what_the_loader_kept(wrap: Wrap) -> None:
    """ComfyUI asks so for a model on another device: it has to be another one."""
    node, _ = wrap(Remembering)
    model = _run(node, device="npu:1")
    model.cached_patcher_init = None
    model = _run(node, device="npu:1")
    reload, arguments = model.cached_patcher_init
    assert reload(*arguments).model is not model.model


def _v3_loader() -> type:
    """V3 classes have class methods: what they keep is on the class, for all nodes and devices."""
    io = importlib.import_module("comfy_api.latest").io
    kept: dict[str, Any] = {}

    class RememberingV3(io.ComfyNode):  # type: ignore[misc]
        @classmethod
        def define_schema(cls) -> Any:
            inputs = [io.Combo.Input("unet_name", options=["flux.safetensors"])]
            return io.Schema(node_id="RememberingV3", category="test", inputs=inputs, outputs=[io.Model.Output()])

        @classmethod
        def execute(cls, unet_name: str) -> Any:
            if unet_name not in kept:
                (kept[unet_name],) = importlib.import_module("nodes").UNETLoader().load_unet(unet_name, "default")
            return io.NodeOutput(kept[unet_name])

    return RememberingV3


def test_what_a_v3_class_keeps_is_handed_out_again_and_moves_where_it_is_asked_for(
    comfyui: ComfyUI, wrap: Wrap
) -> None:
    device, split = wrap(_v3_loader())
    model = _run(device, device="npu:1")
    expected = sampled(comfyui, model)
    assert set(_loaded(model)) == {"npu:1"}
    steps = [
        (device, {"device": "npu:2"}, {"npu:2"}),
        (split, SPLIT, {"npu:1", "cpu"}),
        (split, SPLIT | {"expert_mode_allocations": "npu:1,50%;npu:2,50%"}, {"npu:1", "npu:2"}),
        (device, {"device": "npu:1"}, {"npu:1"}),
    ]
    for node, inputs, devices in steps:
        again = _run(node, **inputs)
        assert again is model
        assert torch.equal(sampled(comfyui, model), expected)
        assert set(_loaded(model)) == devices
    assert len(model_management().current_loaded_models) == 1


def test_another_node_s_split_model_that_a_wrapped_class_hands_through_stays_split(
    comfyui: ComfyUI, wrap: Wrap
) -> None:
    class Through(Remembering):
        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
            return {"required": {"unet_name": (["flux.safetensors"],), "model": ("MODEL",)}}

        def load(self, unet_name: str, model: Any = None) -> Any:
            return (model.clone(),)

    (model,) = comfyui.run("UNETLoaderDisTorch2MultiGPU", **FLUX, weight_dtype="default", **SPLIT)
    through = _run(wrap(Through)[0], model=model, device="npu:1")
    assert through.multigpu_placement is model.multigpu_placement
    assert set(_loaded(through)) == {"npu:1", "cpu"}
