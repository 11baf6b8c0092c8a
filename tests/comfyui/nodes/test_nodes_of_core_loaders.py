"""Every loader of ComfyUI's own: its device variant and its split variant, against the loader itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ..support.in_process import ComfyUI
from ..support.outputs import computed, held_model

LOADERS: dict[str, dict[str, Any]] = {
    "UNETLoader": {"unet_name": "flux.safetensors", "weight_dtype": "default"},
    "VAELoader": {"vae_name": "vae.safetensors"},
    "CLIPLoader": {"clip_name": "clip_l.safetensors", "type": "stable_diffusion"},
    "DualCLIPLoader": {"clip_name1": "clip_l.safetensors", "clip_name2": "t5xxl.safetensors", "type": "flux"},
    "TripleCLIPLoader": {
        "clip_name1": "clip_l.safetensors",
        "clip_name2": "clip_g.safetensors",
        "clip_name3": "t5xxl.safetensors",
    },
    "CLIPVisionLoader": {"clip_name": "vision.safetensors"},
    "ControlNetLoader": {"control_net_name": "flux.safetensors"},
    "DiffControlNetLoader": {"model": None, "control_net_name": "flux.safetensors"},
    "CheckpointLoaderSimple": {"ckpt_name": "flux.safetensors"},
    "DiffusersLoader": {"model_path": "flux"},
}
TEXT_ENCODERS = ("CLIPLoader", "DualCLIPLoader", "TripleCLIPLoader", "QuadrupleCLIPLoader", "CLIPVisionLoader")


@pytest.fixture(params=LOADERS)
def loader(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def reference(started_comfyui: ComfyUI) -> dict[str, list[torch.Tensor]]:
    """What each core loader's outputs compute on ComfyUI's own device."""
    with torch.inference_mode():
        return {
            name: computed(started_comfyui, started_comfyui.run(name, **inputs)) for name, inputs in LOADERS.items()
        }


def _devices_of(output: Any) -> set[str]:
    return {str(parameter.device) for parameter in held_model(output).parameters()}


def _equal(values: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return len(values) == len(expected) and all(torch.equal(a, b) for a, b in zip(values, expected, strict=True))


def _split_inputs(loader: str, compute: str, expert: str) -> dict[str, str]:
    name = "device" if loader in TEXT_ENCODERS else "compute_device"
    return {name: compute, "expert_mode_allocations": expert}


def test_a_model_computes_on_the_device_that_the_node_names(
    comfyui: ComfyUI, loader: str, reference: dict[str, list[torch.Tensor]]
) -> None:
    outputs = comfyui.run(f"{loader}MultiGPU", **LOADERS[loader], device="npu:1")
    assert comfyui.held_bytes()[0] == 0, "loading itself leaves nothing on ComfyUI's own device"
    assert _equal(computed(comfyui, outputs, device="npu:1"), reference[loader])
    for output in outputs:
        assert _devices_of(output) == {"npu:1"}
    assert comfyui.held_bytes()[0] == 0 and comfyui.held_bytes()[2] == 0


def test_a_model_on_the_cpu_never_touches_an_accelerator(comfyui: ComfyUI, loader: str) -> None:
    outputs = comfyui.run(f"{loader}MultiGPU", **LOADERS[loader], device="cpu")
    for value in computed(comfyui, outputs, device="cpu"):
        assert value.isfinite().all()
    for output in outputs:
        assert _devices_of(output) == {"cpu"}
    assert [device.peak_bytes for device in comfyui.machine.devices] == [0, 0, 0]


def test_a_split_model_lies_on_its_devices_and_computes_the_same(
    comfyui: ComfyUI, loader: str, reference: dict[str, list[torch.Tensor]]
) -> None:
    split = _split_inputs(loader, "npu:1", "npu:1,40%;npu:2,30%;cpu,30%")
    outputs = comfyui.run(f"{loader}DisTorch2MultiGPU", **LOADERS[loader], **split)
    assert comfyui.held_bytes() == [0, 0, 0], "nothing is placed before the model is used"
    assert _equal(computed(comfyui, outputs, device="npu:1"), reference[loader])
    assert _devices_of(outputs[0]) == {"npu:1", "npu:2", "cpu"}
    for output in outputs[1:]:
        assert _devices_of(output) == {"npu:1"}, "the other outputs of a checkpoint are on the compute device"
    assert comfyui.held_bytes()[0] == 0


@pytest.mark.parametrize("loader", ["UNETLoader", "CLIPLoader"])
def test_a_split_of_nothing_is_an_ordinary_load_on_the_compute_device(
    comfyui: ComfyUI, loader: str, reference: dict[str, list[torch.Tensor]]
) -> None:
    split = _split_inputs(loader, "npu:2", "") | {"virtual_vram_gb": 0.0, "donor_device": "cpu"}
    outputs = comfyui.run(f"{loader}DisTorch2MultiGPU", **LOADERS[loader], **split)
    assert _equal(computed(comfyui, outputs, device="npu:2"), reference[loader])
    for output in outputs:
        assert _devices_of(output) == {"npu:2"}


def test_outputs_know_their_device_wherever_comfyui_asks_them(comfyui: ComfyUI) -> None:
    (vae,) = comfyui.run("VAELoaderMultiGPU", **LOADERS["VAELoader"], device="npu:2")
    (vision,) = comfyui.run("CLIPVisionLoaderMultiGPU", **LOADERS["CLIPVisionLoader"], device="npu:2")
    (clip,) = comfyui.run("CLIPLoaderMultiGPU", **LOADERS["CLIPLoader"], device="npu:2")
    (control,) = comfyui.run("ControlNetLoaderMultiGPU", **LOADERS["ControlNetLoader"], device="npu:2")
    assert vae.device == vae.patcher.load_device == torch.device("npu:2")
    assert vision.load_device == vision.patcher.load_device == torch.device("npu:2")
    assert clip.patcher.load_device == torch.device("npu:2")
    assert control.load_device == control.control_model_wrapped.load_device == torch.device("npu:2")


def test_every_part_of_a_checkpoint_has_a_device_of_its_own(
    comfyui: ComfyUI, reference: dict[str, list[torch.Tensor]]
) -> None:
    outputs = comfyui.run(
        "CheckpointLoaderAdvancedMultiGPU",
        ckpt_name="flux.safetensors",
        unet_device="npu:2",
        clip_device="npu:1",
        vae_device="cpu",
    )
    values = computed(comfyui, outputs[:2])
    assert _equal(values, reference["CheckpointLoaderSimple"][: len(values)])
    computed(comfyui, outputs[2:])
    assert [_devices_of(output) for output in outputs] == [{"npu:2"}, {"npu:1"}, {"cpu"}]
    assert comfyui.machine.devices[0].peak_bytes == 0


def test_model_and_text_encoder_of_a_checkpoint_are_split_each_in_its_own_way(
    comfyui: ComfyUI, reference: dict[str, list[torch.Tensor]]
) -> None:
    outputs = comfyui.run(
        "CheckpointLoaderAdvancedDisTorch2MultiGPU",
        ckpt_name="flux.safetensors",
        unet_compute_device="npu:0",
        unet_virtual_vram_gb=0.01,
        unet_donor_device="npu:2",
        clip_compute_device="npu:1",
        clip_virtual_vram_gb=0.0,
        clip_donor_device="cpu",
        vae_device="npu:2",
        clip_expert_mode_allocations="npu:1,50%;cpu,50%",
    )
    assert _equal(computed(comfyui, outputs), reference["CheckpointLoaderSimple"])
    assert [_devices_of(output) for output in outputs] == [{"npu:0", "npu:2"}, {"npu:1", "cpu"}, {"npu:2"}]


@pytest.mark.parametrize("variant", ["MultiGPU", "DisTorch2MultiGPU"])
def test_four_text_encoders_reach_the_v3_loader_by_their_names(
    comfyui: ComfyUI, variant: str, monkeypatch: pytest.MonkeyPatch, reference: dict[str, list[torch.Tensor]]
) -> None:
    """The fourth encoder, a Llama, has no tiny shape: in its place ComfyUI reads the first three."""
    import comfy.sd

    load_clip, asked = comfy.sd.load_clip, []

    def load_first_three(ckpt_paths: list[str], **options: Any) -> Any:
        asked.append(list(ckpt_paths))
        return load_clip(ckpt_paths=ckpt_paths[:3], **options)

    monkeypatch.setattr(comfy.sd, "load_clip", load_first_three)
    names = {f"clip_name{i}": f"{file}.safetensors" for i, file in enumerate(("clip_l", "clip_g", "t5xxl", "t5xxl"), 1)}
    placing = {"device": "npu:1"} | ({"expert_mode_allocations": "npu:1,50%;cpu,50%"} if "DisTorch" in variant else {})
    outputs = comfyui.run(f"QuadrupleCLIPLoader{variant}", **names, **placing)
    assert [path.rsplit("/", 1)[-1] for path in asked[0]] == list(names.values())
    assert _equal(computed(comfyui, outputs), reference["TripleCLIPLoader"])
    assert _devices_of(outputs[0]) == ({"npu:1", "cpu"} if "DisTorch" in variant else {"npu:1"})


def test_the_lp_node_loads_as_core_does(comfyui: ComfyUI, reference: dict[str, list[torch.Tensor]]) -> None:
    outputs = comfyui.run("UNetLoaderLP", unet_name="flux.safetensors")
    assert _equal(computed(comfyui, outputs), reference["UNETLoader"])
    assert _devices_of(outputs[0]) == {"npu:0"}


def test_the_device_selector_hands_on_the_name(comfyui: ComfyUI) -> None:
    assert comfyui.run("DeviceSelectorMultiGPU", device="npu:2") == ("npu:2",)


def test_a_text_encoder_loader_is_asked_for_its_default_device(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Core's own `device` input knows only "default" and "cpu"; ours takes its place."""
    core, asked = comfyui.nodes.CLIPLoader.load_clip, []

    def load_clip(self: Any, *args: Any, **inputs: Any) -> Any:
        asked.append(inputs["device"])
        return core(self, *args, **inputs)

    monkeypatch.setattr(comfyui.nodes.CLIPLoader, "load_clip", load_clip)
    (clip,) = comfyui.run("CLIPLoaderMultiGPU", **LOADERS["CLIPLoader"], device="npu:1")
    assert asked == ["default"] and clip.patcher.load_device == torch.device("npu:1")


def test_loading_a_split_fills_no_accelerator_even_where_comfyui_keeps_models_on_them(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch, reference: dict[str, list[torch.Tensor]]
) -> None:
    import comfy.model_management as mm

    monkeypatch.setattr(mm, "vram_state", mm.VRAMState.HIGH_VRAM)
    split = _split_inputs("CheckpointLoaderSimple", "npu:1", "npu:1,50%;npu:2,50%")
    outputs = comfyui.run("CheckpointLoaderSimpleDisTorch2MultiGPU", **LOADERS["CheckpointLoaderSimple"], **split)
    assert [device.peak_bytes for device in comfyui.machine.devices] == [0, 0, 0]
    assert _equal(computed(comfyui, outputs), reference["CheckpointLoaderSimple"])
    mm.unload_all_models()
    assert comfyui.held_bytes() == [0, 0, 0]
