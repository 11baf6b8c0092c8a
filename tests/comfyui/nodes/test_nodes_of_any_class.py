"""Wrapping a loader class of whatever kind: V1, V3, async, with checks and fingerprints of its own."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from multigpu.hookspecs import NodeVariant, split_and_device

from ..support.in_process import ComfyUI

FLUX = {"unet_name": "flux.safetensors"}
Wrap = Callable[[type], tuple[type, type]]


@pytest.fixture
def wrap(comfyui: ComfyUI) -> Wrap:
    """Makes the device variant and the split variant of a class."""
    from multigpu.multigpu_core.comfy.nodes.variants import make_variant

    def make(wrapped: type) -> tuple[type, type]:
        variants: tuple[NodeVariant, ...] = split_and_device(wrapped.__name__)
        device, split = (make_variant(wrapped, variant, comfyui.framework.context) for variant in variants)
        return device, split

    return make


class V1Loader:
    """As packs write theirs; the tests add to it."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load_it"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"unet_name": (["flux.safetensors"],)}, "hidden": {"unique_id": "UNIQUE_ID"}}

    def load_it(self, unet_name: str, unique_id: str = "") -> Any:
        import nodes

        return nodes.UNETLoader().load_unet(unet_name, "default")


def _async_v3_loader() -> type:
    import comfy.model_management
    import nodes
    from comfy_api.latest import io

    class AsyncLoader(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            inputs = [io.Combo.Input("unet_name", options=["flux.safetensors"])]
            return io.Schema(node_id="AsyncLoader", category="test", inputs=inputs, outputs=[io.Model.Output()])

        @classmethod
        async def execute(cls, unet_name: str) -> io.NodeOutput:
            await asyncio.sleep(0)
            seen.append(str(comfy.model_management.get_torch_device()))
            await asyncio.sleep(0)
            return io.NodeOutput(*nodes.UNETLoader().load_unet(unet_name, "default"))

        @classmethod
        def validate_inputs(cls, unet_name: str) -> bool | str:
            return unet_name == "flux.safetensors" or f"no {unet_name}"

        @classmethod
        def fingerprint_inputs(cls, unet_name: str) -> str:
            return f"file {unet_name}"

    seen: list[str] = []
    AsyncLoader.seen = seen
    return AsyncLoader


@pytest.mark.parametrize("variant", [0, 1])
def test_an_async_v3_loader_stays_async_and_runs_inside_its_device(comfyui: ComfyUI, wrap: Wrap, variant: int) -> None:
    import comfy.model_management as mm

    wrapped = _async_v3_loader()
    node = wrap(wrapped)[variant]
    assert inspect.iscoroutinefunction(getattr(node, node.FUNCTION))
    placing = [{"device": "npu:1"}, {"compute_device": "npu:1", "expert_mode_allocations": "npu:1,50%;cpu,50%"}]
    result = asyncio.run(getattr(node(), node.FUNCTION)(**FLUX, **placing[variant]))
    (model,) = result.args
    assert wrapped.seen == [str(model.load_device)] == ["npu:1"]
    mm.load_models_gpu([model])
    devices = {str(parameter.device) for parameter in model.model.parameters()}
    assert devices == ({"npu:1"} if variant == 0 else {"npu:1", "cpu"})


def test_two_async_loaders_at_once_keep_to_their_own_devices(comfyui: ComfyUI, wrap: Wrap) -> None:
    import comfy.model_patcher

    before = comfy.model_patcher.CoreModelPatcher
    wrapped = _async_v3_loader()
    node = wrap(wrapped)[1]

    async def both() -> list[Any]:
        split = {"expert_mode_allocations": "npu:1,1gb;cpu,*"}
        loads = [
            getattr(node(), node.FUNCTION)(**FLUX, compute_device=device, **split) for device in ("npu:1", "npu:2")
        ]
        return await asyncio.gather(*loads)

    models = [result.args[0] for result in asyncio.run(both())]
    assert sorted(wrapped.seen) == [str(model.load_device) for model in models] == ["npu:1", "npu:2"]
    assert comfy.model_patcher.CoreModelPatcher is before


def test_inputs_of_the_wrapped_class_come_first_and_hidden_ones_reach_it(wrap: Wrap) -> None:
    class Telling(V1Loader):
        def load_it(self, unet_name: str, unique_id: str = "") -> Any:
            told.append(unique_id)
            return super().load_it(unet_name)

    told: list[str] = []
    device, split = wrap(Telling)
    assert list(split.INPUT_TYPES()["required"]) == ["unet_name"]
    assert split.INPUT_TYPES()["hidden"] == {"unique_id": "UNIQUE_ID"}
    device().load(**FLUX, unique_id="17", device="npu:1")
    assert told == ["17"]


def test_hidden_inputs_reach_a_v3_class_where_it_looks_for_them(comfyui: ComfyUI, wrap: Wrap) -> None:
    from comfy_api.latest import io
    from execution import get_input_data

    class Telling(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            inputs = [io.Combo.Input("unet_name", options=["flux.safetensors"])]
            hidden = [io.Hidden.unique_id, io.Hidden.prompt]
            outputs = [io.Model.Output()]
            return io.Schema(node_id="Telling", category="test", inputs=inputs, outputs=outputs, hidden=hidden)

        @classmethod
        def execute(cls, unet_name: str) -> io.NodeOutput:
            told.append((cls.hidden.unique_id, cls.hidden.prompt))
            return io.NodeOutput(*comfyui.run("UNETLoader", unet_name=unet_name, weight_dtype="default"))

    told: list[Any] = []
    for node, device in zip(wrap(Telling), ("device", "compute_device"), strict=True):
        inputs, *_ = get_input_data(FLUX | {device: "npu:1"}, node, "17")
        node().load(**{name: value for name, (value,) in inputs.items()})
    assert told == [("17", {})] * 2


def test_what_a_wrapped_class_tells_the_page_is_passed_on(wrap: Wrap) -> None:
    class Chatty(V1Loader):
        def load_it(self, unet_name: str, unique_id: str = "") -> Any:
            return {"ui": {"text": ["loaded"]}, "result": super().load_it(unet_name)}

    result = wrap(Chatty)[0]().load(**FLUX, device="npu:1")
    assert result["ui"] == {"text": ["loaded"]}
    assert str(result["result"][0].load_device) == "npu:1"


def test_a_wrapped_class_keeps_its_own_check_of_its_own_inputs(wrap: Wrap) -> None:
    class Checking(V1Loader):
        @classmethod
        def VALIDATE_INPUTS(cls, unet_name: str) -> bool | str:  # noqa: N802
            return unet_name != "broken.safetensors" or "this file is broken"

    for node in wrap(Checking):
        taken = inspect.getfullargspec(node.VALIDATE_INPUTS).args
        assert "unet_name" in taken and any("device" in name for name in taken)
        assert node.VALIDATE_INPUTS(unet_name="flux.safetensors", device="npu:1") is True
        assert node.VALIDATE_INPUTS(unet_name="broken.safetensors", device="npu:1") == "this file is broken"


def test_a_check_that_takes_all_inputs_is_given_all_of_its_own(wrap: Wrap) -> None:
    class Checking(V1Loader):
        @classmethod
        def VALIDATE_INPUTS(cls, **inputs: Any) -> bool:  # noqa: N802
            given.append(inputs)
            return True

    given: list[dict[str, Any]] = []
    node = wrap(Checking)[1]
    assert inspect.getfullargspec(node.VALIDATE_INPUTS).varkw is not None
    node.VALIDATE_INPUTS(unet_name="flux.safetensors", compute_device="npu:1", virtual_vram_gb=4.0)
    assert given == [FLUX]


def test_checks_and_fingerprints_of_a_v3_class_are_kept(comfyui: ComfyUI, wrap: Wrap) -> None:
    for node, device in zip(wrap(_async_v3_loader()), ("device", "compute_device"), strict=True):
        assert node.VALIDATE_INPUTS(unet_name="flux.safetensors") is True
        assert node.VALIDATE_INPUTS(unet_name="absent") == "no absent"
        assert node.IS_CHANGED(**FLUX, **{device: "npu:1"}) == "file flux.safetensors"


def test_a_fingerprint_sees_only_inputs_that_it_knows(wrap: Wrap) -> None:
    class Fingerprinting(V1Loader):
        @classmethod
        def IS_CHANGED(cls, unet_name: str) -> str:  # noqa: N802
            return f"file {unet_name}"

    device, split = wrap(Fingerprinting)
    assert device.IS_CHANGED(**FLUX, device="npu:1") == "file flux.safetensors"
    assert split.IS_CHANGED(**FLUX, compute_device="npu:1", virtual_vram_gb=2.0) == "file flux.safetensors"


def test_an_async_fingerprint_is_awaited(wrap: Wrap) -> None:
    class Fingerprinting(V1Loader):
        @classmethod
        async def IS_CHANGED(cls, unet_name: str) -> str:  # noqa: N802
            return f"file {unet_name}"

    (device, _) = wrap(Fingerprinting)
    assert inspect.iscoroutinefunction(device.IS_CHANGED), "by which ComfyUI knows that it is to be awaited"
    assert asyncio.run(device.IS_CHANGED(**FLUX, device="npu:1")) == "file flux.safetensors"


def test_a_class_without_check_or_fingerprint_gets_none(comfyui: ComfyUI) -> None:
    node = comfyui.nodes.NODE_CLASS_MAPPINGS["UNETLoaderMultiGPU"]
    assert not hasattr(node, "IS_CHANGED")
    assert node.VALIDATE_INPUTS(device="npu:1") is True


def test_a_device_of_its_own_is_replaced_by_ours_in_its_place(comfyui: ComfyUI) -> None:
    node = comfyui.nodes.NODE_CLASS_MAPPINGS["DualCLIPLoaderDisTorch2MultiGPU"]
    optional = node.INPUT_TYPES()["optional"]
    assert next(iter(optional)) == "device"
    assert optional["device"][0] == ["cpu", "npu:0", "npu:1", "npu:2"]
    assert comfyui.nodes.DualCLIPLoader.INPUT_TYPES()["optional"]["device"][0] == ["default", "cpu"]


def test_every_input_that_we_add_explains_itself(comfyui: ComfyUI) -> None:
    for node_id, node in comfyui.framework.NODE_CLASS_MAPPINGS.items():
        wrapped = node.WRAPPED.INPUT_TYPES() if hasattr(node, "WRAPPED") else {}
        for section, inputs in node.INPUT_TYPES().items():
            ours = {name: spec for name, spec in inputs.items() if spec != wrapped.get(section, {}).get(name)}
            for name, spec in ours.items():
                assert spec[1].get("tooltip"), f"{node_id}: {name}"


def test_a_split_of_what_comfyui_does_not_manage_is_refused_with_the_way_out(wrap: Wrap) -> None:
    class Strange(V1Loader):
        def load_it(self, unet_name: str, unique_id: str = "") -> Any:
            return (object(),)

    _, split = wrap(Strange)
    with pytest.raises(RuntimeError, match=r"StrangeDisTorch2MultiGPU cannot split .* Use the node's MultiGPU variant"):
        split().load(**FLUX, compute_device="npu:1", expert_mode_allocations="npu:1,50%;cpu,50%")
