"""A ControlNet on one device steers a model on another: the picture is that of both on one device."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ..support.in_process import ComfyUI
from ..support.outputs import conditioning, held_model, picture
from ..support.split_models import MODES, THIRDS, model_management

FLUX = {"unet_name": "flux.safetensors", "weight_dtype": "default"}
CONTROL = {"control_net_name": "flux.safetensors"}
MODELS = {
    "ComfyUI's own": ("UNETLoader", {}),
    "on one device": ("UNETLoaderMultiGPU", {"device": "npu:0"}),
    "split": ("UNETLoaderDisTorch2MultiGPU", {"compute_device": "npu:0", **THIRDS}),
    "relayed": ("UNETLoaderDisTorch2MultiGPU", {"compute_device": "npu:0", **MODES["relay"]}),
}
CONTROLS = {
    "on a second card": ("ControlNetLoaderMultiGPU", {"device": "npu:1"}),
    "split": (
        "ControlNetLoaderDisTorch2MultiGPU",
        {"compute_device": "npu:1", "expert_mode_allocations": "npu:1,50%;npu:2,50%"},
    ),
}


def _model(comfyui: ComfyUI, loader: str, device: dict[str, Any]) -> Any:
    return comfyui.run(loader, **FLUX, **device)[0]


def _control(comfyui: ComfyUI, loader: str = "ControlNetLoader", device: dict[str, Any] | None = None) -> Any:
    return comfyui.run(loader, **CONTROL, **(device or {}))[0]


def _steered(comfyui: ComfyUI, model: Any, *controls: Any, cfg: float = 1.0, strength: float = 0.7) -> Tensor:
    """Two steps with each ControlNet applied in turn."""
    positive, negative = conditioning(), [[conditioning()[0][0] * 0.5, conditioning()[0][1]]]
    for index, control in enumerate(controls):
        inputs = {"strength": strength / (1 + index), "start_percent": 0.0, "end_percent": 1.0, "image": picture()}
        wires = {"positive": positive, "negative": negative, "control_net": control}
        positive, negative = comfyui.run("ControlNetApplyAdvanced", **wires, **inputs)
    latent = {"samples": torch.zeros(1, 16, 4, 4)}
    result = comfyui.nodes.common_ksampler(model, 5, 2, cfg, "euler", "simple", positive, negative, latent)
    samples: Tensor = result[0]["samples"]
    return samples.cpu()


@pytest.fixture
def expected(comfyui: ComfyUI) -> Iterator[Tensor]:
    """The picture of ComfyUI's own loaders on one device."""
    model = _model(comfyui, "UNETLoader", {})
    steered = _steered(comfyui, model, _control(comfyui))
    assert not torch.equal(steered, _steered(comfyui, model)), "the ControlNet changes nothing"
    del model
    comfyui.reset()
    yield steered


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("model", MODELS)
def test_the_picture_is_that_of_one_device(comfyui: ComfyUI, expected: Tensor, model: str, control: str) -> None:
    steered = _steered(comfyui, _model(comfyui, *MODELS[model]), _control(comfyui, *CONTROLS[control]))
    assert torch.equal(steered, expected)


def test_one_on_the_cpu_steers_a_split_model_as_it_steers_a_whole_one(comfyui: ComfyUI) -> None:
    pictures = []
    for model in ("ComfyUI's own", "split"):
        control = _control(comfyui, "ControlNetLoaderMultiGPU", {"device": "cpu"})
        pictures.append(_steered(comfyui, _model(comfyui, *MODELS[model]), control))
        assert {str(weight.device) for weight in held_model(control).parameters()} == {"cpu"}
        comfyui.reset()
    assert torch.equal(*pictures)


@pytest.mark.parametrize("model", ["on one device", "split"])
def test_comfyui_s_own_controlnet_steers_a_model_on_another_device(
    comfyui: ComfyUI, expected: Tensor, model: str
) -> None:
    loader, device = MODELS[model]
    elsewhere = {name: str(value).replace("npu:0", "npu:2") for name, value in device.items()}
    if model == "split":
        elsewhere["expert_mode_allocations"] = "npu:2,30%;npu:1,40%;cpu,30%"
    assert torch.equal(_steered(comfyui, _model(comfyui, loader, elsewhere), _control(comfyui)), expected)


def test_several_controlnets_on_as_many_devices_steer_together(comfyui: ComfyUI) -> None:
    whole = _model(comfyui, "UNETLoader", {})
    expected = _steered(comfyui, whole, *(_control(comfyui) for _ in range(3)), cfg=3.0)
    del whole
    comfyui.reset()
    controls = [_control(comfyui, "ControlNetLoaderMultiGPU", {"device": f"npu:{card}"}) for card in (1, 0, 2)]
    model = _model(comfyui, *MODELS["split"])
    assert torch.equal(_steered(comfyui, model, *controls, cfg=3.0), expected)


def test_its_weights_and_its_hint_stay_off_the_model_s_device(comfyui: ComfyUI) -> None:
    model, control = _model(comfyui, *MODELS["split"]), _control(comfyui, *CONTROLS["on a second card"])
    weights = held_model(control).parameters()
    comfyui.machine.copies.clear()
    _steered(comfyui, model, control)
    assert {str(weight.device) for weight in weights} == {"npu:1"}
    assert control.cond_hint is None
    model_management().unload_all_models()
    del model, control
    comfyui.reset()
    assert comfyui.held_bytes() == [0, 0, 0]


def test_an_error_in_the_middle_leaves_nothing_behind(
    comfyui: ComfyUI, expected: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, control = _model(comfyui, *MODELS["split"]), _control(comfyui, *CONTROLS["on a second card"])

    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("broken on the second card")

    with monkeypatch.context() as patched:
        patched.setattr(type(held_model(control)), "forward", broken)
        with pytest.raises(RuntimeError, match="broken on the second card"):
            _steered(comfyui, model, control)
    assert torch.equal(_steered(comfyui, model, control), expected)


def test_a_t2i_adapter_computes_where_it_was_loaded(comfyui: ComfyUI) -> None:
    controlnet, adapter = (importlib.import_module(name) for name in ("comfy.controlnet", "comfy.t2i_adapter.adapter"))
    elsewhere = importlib.import_module("multigpu.multigpu_core.comfy.auxiliary.controlnets")
    torch.manual_seed(1)
    module = adapter.Adapter_light(cin=192, channels=[8, 8, 8, 8], nums_rb=1)

    def asked(device: str) -> tuple[Any, Tensor]:
        loaded = controlnet.T2IAdapter(module, 3, 8, "nearest-exact", torch.device(device))
        applied = elsewhere.compute_where_loaded(loaded).copy().set_cond_hint(picture().movedim(-1, 1), 0.5)
        latent = torch.zeros(1, 4, 4, 4, device="npu:0")
        comfyui.machine.reset_peaks()
        residuals = applied.get_control(latent, torch.ones(1, device="npu:0"), {}, 1, {})
        return residuals, latent

    (there, latent), (here, _) = asked("npu:1"), asked("npu:0")
    pairs = [pair for name in here for pair in zip(there[name], here[name], strict=True) if pair[1] is not None]
    assert pairs and all(one.device == latent.device and torch.equal(one, other) for one, other in pairs)


class _BorrowsFromTheModel(torch.nn.Module):
    """A control that calls a part of the model it steers, as Qwen's Fun ControlNets do."""

    dtype = torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.3), requires_grad=False)

    def forward(self, x: Tensor, context: Tensor, base_model: Any, **others: Any) -> dict[str, list[Tensor]]:
        assert self.weight.device == x.device
        return {"input": [base_model.txt_in(context.to(base_model.dtype))[:, :4] * self.weight]}


@pytest.mark.parametrize("model", MODELS)
def test_a_controlnet_that_calls_parts_of_the_model_finds_them(comfyui: ComfyUI, model: str) -> None:
    controls = importlib.import_module("comfy.controlnet")
    if not hasattr(controls, "QwenFunControlNet"):
        pytest.skip("this ComfyUI has no ControlNets that do")
    elsewhere = importlib.import_module("multigpu.multigpu_core.comfy.auxiliary.controlnets")

    def fun(device: str) -> Any:
        control = controls.QwenFunControlNet(_BorrowsFromTheModel(), load_device=torch.device(device))
        return elsewhere.compute_where_loaded(control)

    whole = _model(comfyui, "UNETLoader", {})
    expected = _steered(comfyui, whole, fun("npu:0"))
    assert not torch.equal(expected, _steered(comfyui, whole))
    del whole
    comfyui.reset()
    assert torch.equal(_steered(comfyui, _model(comfyui, *MODELS[model]), fun("npu:1")), expected)


class _Patch:
    """Replaces a block of Flux by itself and a module of its own, as nodes that bring a model patch do."""

    def __init__(self, comfyui: ComfyUI, device: str) -> None:
        module = torch.nn.Linear(128, 128)
        torch.nn.init.constant_(module.weight, 0.01)
        torch.nn.init.constant_(module.bias, 0.2)
        patcher = importlib.import_module("comfy.model_patcher").ModelPatcher
        self.patcher = patcher(module, torch.device(device), torch.device("cpu"))

    def models(self) -> list[Any]:
        return [self.patcher]

    def __call__(self, args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        out: dict[str, Any] = extra["original_block"](args)
        image = out["img"]
        return {**out, "img": image + self.patcher.model(image.float()).to(image.dtype)}


@pytest.mark.parametrize("model", ["on one device", "split", "relayed"])
def test_a_model_patch_that_was_loaded_elsewhere_is_brought_to_the_model(
    comfyui: ComfyUI, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    def patched(loaded: Any, patch: _Patch) -> Any:
        clone = loaded.clone()
        clone.set_model_patch_replace(patch, "dit", "double_block", 0)
        return clone

    whole = _model(comfyui, "UNETLoader", {})
    expected = _steered(comfyui, patched(whole, _Patch(comfyui, "npu:0")))
    assert not torch.equal(expected, _steered(comfyui, whole))
    del whole
    comfyui.reset()
    patch = _Patch(comfyui, "npu:1")
    model_management().load_models_gpu([patch.patcher])
    loader, device = MODELS[model]
    assert torch.equal(_steered(comfyui, patched(_model(comfyui, loader, device), patch)), expected)
    assert "Linear computes inside Flux" in caplog.text
    assert comfyui.held_bytes()[1] < 2 * 2**20


UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
    "channel_mult": (1, 2), "transformer_depth": [1, 1], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1], "context_dim": 16, "num_heads": 2, "num_head_channels": -1,
    "use_spatial_transformer": True, "use_linear_in_transformer": False, "legacy": False,
}  # fmt: skip


@pytest.mark.parametrize("device", ["npu:0", "npu:2"])
def test_a_control_lora_is_put_together_on_the_model_s_device(comfyui: ComfyUI, device: str) -> None:
    controls, models, patchers = (
        importlib.import_module(f"comfy.{name}") for name in ("controlnet", "supported_models", "model_patcher")
    )
    elsewhere = importlib.import_module("multigpu.multigpu_core.comfy.auxiliary.controlnets")
    torch.manual_seed(2)
    config = models.SD15(dict(UNET, use_temporal_attention=False))
    config.set_inference_dtype(torch.float32, None)
    base = config.get_model({}, device=torch.device("cpu"))
    patcher = patchers.ModelPatcher(base, torch.device(device), torch.device("cpu"))
    model_management().load_models_gpu([patcher])
    base.current_patcher = patcher
    whole = importlib.import_module("comfy.cldm.cldm").ControlNet(
        hint_channels=3,
        dtype=torch.float32,
        operations=importlib.import_module("comfy.ops").disable_weight_init,
        **{name: value for name, value in UNET.items() if name != "out_channels"},
    )
    shared = base.diffusion_model.state_dict()
    lora = {name: torch.rand(value.shape) for name, value in whole.state_dict().items() if name not in shared}
    lora |= {"time_embed.0.up": torch.rand(128, 2), "time_embed.0.down": torch.rand(2, 32)}
    control = elsewhere.compute_where_loaded(controls.ControlLora(lora)).copy().set_cond_hint(torch.rand(1, 3, 64, 64))
    control.pre_run(base, lambda percent: 1.0 - percent)
    control.timestep_range = None
    latent, prompt = torch.zeros(1, 4, 8, 8, device=device), {"c_crossattn": torch.zeros(1, 4, 16, device=device)}
    residuals = control.get_control(latent, torch.ones(1, device=device), prompt, 1, {})
    assert {str(each.device) for name in residuals for each in residuals[name] if each is not None} == {device}
    control.cleanup()
