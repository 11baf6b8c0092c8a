"""Patches that hold modules and tensors of their own, as IP-adapters do: they are where the patched model computes."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from ..support.in_process import ComfyUI
from ..support.packs_at_hand import import_pack, stand_in
from ..support.split_models import MODES, model_management
from ..support.tiny_unet import UNET, small_unet, unet_picture

ELSEWHERE = {
    "on another device": ("UNETLoaderMultiGPU", {"device": "npu:1"}),
    "split": (
        "UNETLoaderDisTorch2MultiGPU",
        {"compute_device": "npu:1", "expert_mode_allocations": "npu:1,30%;npu:2,30%;cpu,40%"},
    ),
    "relayed": (
        "UNETLoaderDisTorch2MultiGPU",
        {"compute_device": "npu:1", "expert_mode_allocations": "npu:1,50%;npu:2,50%", "strategy": "relay"},
    ),
    "relayed beside ComfyUI's own device": (
        "UNETLoaderDisTorch2MultiGPU",
        {"compute_device": "npu:0", **MODES["relay"]},
    ),
}


@pytest.fixture(scope="module", autouse=True)
def unet(started_comfyui: ComfyUI) -> Iterator[None]:
    """A tiny model of Stable Diffusion 1.5's kind, and the pack, as one that no integration knows."""
    import_pack(started_comfyui, stand_in("ipadapter"))
    with small_unet(started_comfyui):
        yield


def _model(comfyui: ComfyUI, loader: str = "UNETLoader", device: dict[str, Any] | None = None) -> Any:
    return comfyui.run(loader, **UNET, **(device or {}))[0]


def _adapted(comfyui: ComfyUI, model: Any) -> Any:
    image = torch.rand(1, 8, 8, 3, generator=torch.Generator().manual_seed(4))
    return comfyui.run("IPAdapterAdvanced", model=model, ipadapter={}, image=image, weight=0.8)[0]


@pytest.fixture
def expected(comfyui: ComfyUI) -> Iterator[Tensor]:
    """The picture of ComfyUI's own loader on one device."""
    model = _model(comfyui)
    adapted = unet_picture(comfyui, _adapted(comfyui, model))
    assert not torch.equal(adapted, unet_picture(comfyui, model)), "the adapter changes nothing"
    del model
    comfyui.reset()
    yield adapted


@pytest.mark.parametrize("place", ELSEWHERE)
def test_the_picture_is_that_of_one_device(comfyui: ComfyUI, expected: Tensor, place: str) -> None:
    model = _adapted(comfyui, _model(comfyui, *ELSEWHERE[place]))
    for _ in range(2):
        assert torch.equal(unet_picture(comfyui, model), expected)


@pytest.mark.parametrize("place", ["relayed", "relayed beside ComfyUI's own device"])
def test_with_cfg_both_halves_of_a_relayed_model_find_what_patches_hold(comfyui: ComfyUI, place: str) -> None:
    whole = _adapted(comfyui, _model(comfyui))
    expected = unet_picture(comfyui, whole, cfg=4.0)
    del whole
    comfyui.reset()
    comfyui.machine.detect_races = True
    try:
        made = unet_picture(comfyui, _adapted(comfyui, _model(comfyui, *ELSEWHERE[place])), cfg=4.0)
    finally:
        comfyui.machine.detect_races = False
    assert torch.allclose(made, expected, atol=1e-5)


class _Shift(torch.nn.Module):
    def __init__(self, device: str) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((1,), 0.3, device=device), requires_grad=False)
        self.register_buffer("more", torch.full((1,), 0.1, device=device))
        self.plain = torch.full((1,), 0.2, device=device)

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.weight + self.more + self.plain).to(x.dtype)


class _Worker:
    """What a pack may keep between its node and its patch."""

    def __init__(self, shift: _Shift) -> None:
        self.parts = ({"shift": shift},)

    def shifted(self, x: Tensor, *_: Any) -> Tensor:
        made: Tensor = self.parts[0]["shift"](x)
        return made


def _output_patch(model: Any, shift: _Shift) -> None:
    model.set_model_attn2_output_patch(lambda n, extra_options: shift(n))


def _in_place(model: Any, shift: _Shift) -> None:
    def patch(n: Tensor, extra_options: Any) -> Tensor:
        n += shift.weight.to(n.dtype)
        return n

    model.set_model_attn2_output_patch(patch)


def _method(model: Any, shift: _Shift) -> None:
    model.set_model_attn2_output_patch(_Worker(shift).shifted)


def _partial(model: Any, shift: _Shift) -> None:
    def add(amounts: tuple[Tensor, ...], n: Tensor, extra_options: Any, *, more: Tensor) -> Tensor:
        return n + (amounts[0] + more).to(n.dtype)

    patch = partial(add, (shift.weight.data,), more=shift.more)
    model.set_model_attn2_output_patch(patch)


def _function_wrapper(model: Any, shift: _Shift) -> None:
    model.set_model_unet_function_wrapper(
        lambda apply, args: shift(apply(args["input"], args["timestep"], **args["c"]))
    )


def _wrapper(model: Any, shift: _Shift) -> None:
    kinds = importlib.import_module("comfy.patcher_extension").WrappersMP
    model.add_wrapper(kinds.DIFFUSION_MODEL, lambda executor, *args, **kwargs: shift(executor(*args, **kwargs)))


def _after_cfg(model: Any, shift: _Shift) -> None:
    model.set_model_sampler_post_cfg_function(lambda args: shift(args["denoised"]))


HOLDERS = (_output_patch, _in_place, _method, _partial, _function_wrapper, _wrapper, _after_cfg)


def _shifted(model: Any, hold: Any, shift: _Shift) -> Any:
    changed = model.clone()
    hold(changed, shift)
    return changed


@pytest.mark.parametrize("hold", HOLDERS, ids=lambda hold: hold.__name__.strip("_").replace("_", " "))
def test_whatever_holds_it_finds_it_on_the_model_s_device(comfyui: ComfyUI, hold: Any) -> None:
    whole = _model(comfyui)
    expected = unet_picture(comfyui, _shifted(whole, hold, _Shift("npu:0")))
    assert not torch.equal(expected, unet_picture(comfyui, whole))
    del whole
    comfyui.reset()
    for place in ("on another device", "relayed"):
        model = _shifted(_model(comfyui, *ELSEWHERE[place]), hold, _Shift("npu:0"))
        assert torch.equal(unet_picture(comfyui, model), expected), place


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_after_a_sampling_everything_is_where_the_pack_put_it(
    comfyui: ComfyUI, error: type[BaseException] | None
) -> None:
    shift = _Shift("npu:0")
    held = [shift.weight, shift.more, shift.plain]
    seen: list[str] = []

    def patch(n: Tensor, extra_options: Any) -> Tensor:
        seen.extend(str(each.device) for each in (shift.weight, shift.more, shift.plain))
        if error is not None:
            raise error("stopped")
        return shift(n)

    model = _model(comfyui, *ELSEWHERE["on another device"]).clone()
    model.set_model_attn2_output_patch(patch)
    if error is None:
        unet_picture(comfyui, model)
    else:
        with pytest.raises(error, match="stopped"):
            unet_picture(comfyui, model)
    assert set(seen) == {"npu:1"}
    assert all(now is before for now, before in zip((shift.weight, shift.more, shift.plain), held, strict=True))
    model_management().unload_all_models()
    del model, patch
    comfyui.reset()
    held_bytes = comfyui.held_bytes()
    assert held_bytes[0] > 0 and held_bytes[1:] == [0, 0], "only what the pack itself holds is left"


def test_what_a_patch_holds_on_the_cpu_stays_there(comfyui: ComfyUI) -> None:
    shift, seen = _Shift("cpu"), []

    def patch(n: Tensor, extra_options: Any) -> Tensor:
        seen.append(str(shift.weight.device))
        return shift(n.cpu()).to(n.device)

    model = _model(comfyui, *ELSEWHERE["on another device"]).clone()
    model.set_model_attn2_output_patch(patch)
    unet_picture(comfyui, model)
    assert set(seen) == {"cpu"}


@pytest.mark.parametrize("place", ELSEWHERE)
def test_a_patch_that_moves_itself_is_moved_by_comfyui(comfyui: ComfyUI, place: str) -> None:
    class Movable:
        def __init__(self, device: str) -> None:
            self.shift = _Shift(device)
            self.asked: list[Any] = []

        def to(self, device: Any) -> Movable:
            self.asked.append(device)
            if isinstance(device, torch.device):
                self.shift = self.shift.to(device)
                self.shift.plain = self.shift.plain.to(device)
            return self

        def __call__(self, n: Tensor, extra_options: Any) -> Tensor:
            return self.shift(n)

    def pictured(model: Any, patch: Movable) -> Tensor:
        changed = model.clone()
        changed.set_model_attn2_output_patch(patch)
        return unet_picture(comfyui, changed)

    expected = pictured(_model(comfyui), Movable("npu:0"))
    comfyui.reset()
    loader, device = ELSEWHERE[place]
    patch = Movable("npu:0")
    assert torch.equal(pictured(_model(comfyui, loader, device), patch), expected)
    assert torch.device(device.get("device") or device["compute_device"]) in patch.asked


def test_the_log_says_what_was_brought_where(comfyui: ComfyUI, caplog: pytest.LogCaptureFixture) -> None:
    unet_picture(comfyui, _adapted(comfyui, _model(comfyui, *ELSEWHERE["on another device"])))
    unet_picture(comfyui, _adapted(comfyui, _model(comfyui, *ELSEWHERE["split"])))
    told = [record.getMessage() for record in caplog.records if "copied to" in record.getMessage()]
    assert "on npu:0: copied to npu:1 for this sampling" in told[0]
    assert told[0] == told[1], "a split's own memory is not gone through"


def _hooked_picture(comfyui: ComfyUI, model: Any, *hooks: Any) -> Tensor:
    """A picture whose prompt carries hooks, as nodes set them on conditioning."""
    group = importlib.import_module("comfy.hooks").HookGroup()
    for hook in hooks:
        group.add(hook)
    prompt = torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(3))
    positive, negative = ([[prompt * scale, {"hooks": group}]] for scale in (1.0, 0.5))
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    result = comfyui.nodes.common_ksampler(model, 5, 2, 1.0, "euler", "simple", positive, negative, latent)
    samples: Tensor = result[0]["samples"]
    return samples.cpu()


def test_what_hooks_of_the_prompt_bring_is_on_the_model_s_device(comfyui: ComfyUI) -> None:
    hooks, extension, patchers = (
        importlib.import_module(f"comfy.{name}") for name in ("hooks", "patcher_extension", "model_patcher")
    )

    def hooked(device: str) -> list[Any]:
        """A hook with a module in a closure, and one that has ComfyUI load a model."""
        shift, other = _Shift(device), _Shift("cpu")
        other.plain = torch.zeros(1)
        patcher = patchers.ModelPatcher(other, torch.device(device), torch.device("cpu"))

        def wrap(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
            made = shift(executor(*args, **kwargs))
            return made + other.weight.to(made.dtype)

        wrappers = {"wrappers": {extension.WrappersMP.DIFFUSION_MODEL: {"a pack": [wrap]}}}
        return [hooks.TransformerOptionsHook(wrappers), hooks.AdditionalModelsHook([patcher], "a pack")]

    whole = _model(comfyui)
    expected = _hooked_picture(comfyui, whole, *hooked("npu:0"))
    assert not torch.equal(expected, _hooked_picture(comfyui, whole))
    del whole
    comfyui.reset()
    for place in ("on another device", "split"):
        made = _hooked_picture(comfyui, _model(comfyui, *ELSEWHERE[place]), *hooked("npu:0"))
        assert torch.equal(made, expected), place
