"""A model with replicas makes the picture of one device, and each device computes its part of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor

from ..support.in_process import ComfyUI
from ..support.split_models import Sampler, model_management, write_split_models
from ..support.tiny_files import T5_WIDTH

STEPS = 2
"""In the first one device computes alone."""
PARALLEL = {"expert_mode_allocations": "npu:0,50%;npu:1,50%", "strategy": "parallel"}
SPLITS = {
    "two equal GPUs": PARALLEL,
    "half of it streamed": {"expert_mode_allocations": "npu:0,25%;npu:1,25%;cpu,50%", "strategy": "parallel"},
    "all of it streamed": {"expert_mode_allocations": "npu:0,1%;npu:1,1%;cpu,98%", "strategy": "parallel"},
    "auto": {"expert_mode_allocations": "auto", "strategy": "parallel"},
    "virtual VRAM": {"virtual_vram_gb": 0.001, "donor_device": "npu:1", "strategy": "parallel"},
}


@pytest.fixture(autouse=True)
def races(comfyui: ComfyUI) -> Iterator[None]:
    comfyui.machine.detect_races = True
    yield
    comfyui.machine.detect_races = False


@pytest.fixture
def flux(comfyui: ComfyUI) -> Sampler:
    return Sampler(comfyui, "flux")


class Computed:
    """The devices on which the model's blocks were called, in order, and what is to happen when one is."""

    def __init__(self) -> None:
        self.devices: list[str] = []
        self.error: BaseException | None = None
        self.fails_on = ""

    def note(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensor = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        self.devices.append(str(tensor.device))
        if self.error is not None and str(tensor.device) == self.fails_on:
            raise self.error


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Computed:
    """Notes the calls of the last block of Flux, on whatever copy of the model."""
    import comfy.ldm.flux.layers

    found = Computed()
    forward = comfy.ldm.flux.layers.LastLayer.forward

    def noted(layer: Any, *args: Any, **kwargs: Any) -> Any:
        found.note(layer, args, kwargs)
        return forward(layer, *args, **kwargs)

    monkeypatch.setattr(comfy.ldm.flux.layers.LastLayer, "forward", noted)
    return found


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """ComfyUI believes that there is no room for a batch, and runs cond and uncond one after the other."""
    import comfy.model_base

    monkeypatch.setattr(comfy.model_base.BaseModel, "memory_required", lambda *args, **kwargs: 1e30)
    return monkeypatch


def picture(
    sampler: Sampler, model: Any, cfg: float = 4.0, batch: int = 1, steps: int = STEPS, **options: Any
) -> Tensor:
    """`options` are set in both prompts, which are not equally long."""
    generator = torch.Generator().manual_seed(3)
    prompts = []
    for length in (8, 11):
        entry: dict[str, Any] = {**options}
        if sampler.architecture == "flux":
            entry.update(pooled_output=torch.randn(1, 64, generator=generator), guidance=3.5)
        prompts.append([[torch.randn(1, length, T5_WIDTH, generator=generator), entry]])
    size = (batch, 16, 8, 8) if sampler.architecture == "flux" else (batch, 16, 2, 4, 4)
    latent = {"samples": torch.zeros(size)}
    result = sampler.comfyui.nodes.common_ksampler(model, 5, steps, cfg, "euler", "simple", *prompts, latent)
    samples: Tensor = result[0]["samples"]
    return samples


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
def test_cond_and_uncond_on_two_devices_make_what_they_make_one_after_the_other_on_one(
    flux: Sampler, little_memory: pytest.MonkeyPatch, split: dict[str, Any]
) -> None:
    expected = picture(flux, flux.whole())
    little_memory.undo()
    assert torch.equal(picture(flux, flux.split(**split)), expected)


def test_a_video_is_the_same_and_so_it_is_where_devices_run_as_late_as_they_may(
    comfyui: ComfyUI, little_memory: pytest.MonkeyPatch
) -> None:
    write_split_models(comfyui)
    wan = Sampler(comfyui, "wan")
    expected = picture(wan, wan.whole(), steps=2)
    little_memory.undo()
    with comfyui.machine.deferred("late"):
        assert torch.equal(picture(wan, wan.split(**SPLITS["half of it streamed"]), steps=2), expected)


def test_each_device_computes_one_prompt_and_the_log_has_no_reason_why_not(flux: Sampler, computed: Computed) -> None:
    split = flux.split(**PARALLEL)
    with capture_logs() as said:
        picture(flux, split)
    assert computed.devices == ["npu:0"] * 2 + ["npu:0", "npu:1"] * (STEPS - 1)
    assert not {"computing_alone", "replica_failed"} & {entry["event"] for entry in said}


def test_a_device_that_is_too_slow_for_a_prompt_gets_none(flux: Sampler, computed: Computed) -> None:
    picture(flux, flux.split(expert_mode_allocations="npu:0,75%;npu:1,25%", strategy="parallel"))
    assert set(computed.devices) == {"npu:0"}


def test_images_of_a_batch_are_shared_as_the_shares_say(flux: Sampler, computed: Computed) -> None:
    split = flux.split(expert_mode_allocations="npu:0,50%;npu:1,25%;npu:2,25%", strategy="parallel")
    made = picture(flux, split, cfg=1.0, batch=4)
    assert sorted(set(computed.devices)) == ["npu:0", "npu:1", "npu:2"]
    alone = flux.whole()
    alone.set_model_unet_function_wrapper(in_parts(2, 1, 1))
    assert torch.equal(made, picture(flux, alone, cfg=1.0, batch=4))


def in_parts(*sizes: int) -> Callable[..., Tensor]:
    """For ComfyUI's `set_model_unet_function_wrapper`: a batch is rounded otherwise than its parts are."""

    def compute(apply_model: Callable[..., Tensor], call: dict[str, Any]) -> Tensor:
        whole, begin, results = call["input"].shape[0], 0, []
        for size in sizes:

            def narrowed(value: Any, begin: int = begin, size: int = size) -> Any:
                is_batched = isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == whole
                return value[begin : begin + size] if is_batched else value

            given = {name: narrowed(value) for name, value in call["c"].items()}
            results.append(apply_model(narrowed(call["input"]), narrowed(call["timestep"]), **given))
            begin += size
        return torch.cat(results)

    return compute


def test_loras_reach_every_device(flux: Sampler, computed: Computed, little_memory: pytest.MonkeyPatch) -> None:
    whole = flux.whole()
    plain, expected = picture(flux, whole), picture(flux, flux.with_lora(whole, 0.7))
    other = picture(flux, flux.with_lora(whole, 0.2))
    assert not torch.equal(plain, expected)
    split = flux.split(**SPLITS["half of it streamed"])
    for strength, wanted in ((0.7, expected), (0.2, other), (0.7, expected)):
        computed.devices.clear()
        assert torch.equal(picture(flux, flux.with_lora(split, strength)), wanted)
        assert "npu:1" in computed.devices
    assert torch.equal(picture(flux, split), plain)


@pytest.mark.parametrize("device", ["npu:0", "npu:1"])
def test_an_interrupt_on_any_device_ends_the_step_and_leaves_nothing_behind(
    flux: Sampler, computed: Computed, device: str
) -> None:
    split = flux.split(**SPLITS["half of it streamed"])
    expected = picture(flux, split)
    held = flux.comfyui.held_bytes()
    computed.error, computed.fails_on = model_management().InterruptProcessingException(), device
    with pytest.raises(model_management().InterruptProcessingException):
        picture(flux, split)
    computed.error = None
    assert flux.comfyui.held_bytes() == held
    computed.devices.clear()
    assert torch.equal(picture(flux, split), expected)
    assert "npu:1" in computed.devices


def test_when_another_device_fails_the_compute_device_goes_on_alone_and_the_log_names_it(
    flux: Sampler, computed: Computed
) -> None:
    split = flux.split(**PARALLEL)
    expected = picture(flux, split)
    computed.error, computed.fails_on = ValueError("as expected"), "npu:1"
    with capture_logs() as said:
        assert torch.equal(picture(flux, split), expected)
    assert [entry["devices"] for entry in said if entry["event"] == "replica_failed"] == [["npu:1"]]
    computed.error = None  # and with it what its frames held
    assert flux.comfyui.held_bytes()[1] == 0


def test_out_of_memory_on_another_device_offloads_more_then_one_device_goes_on(
    flux: Sampler, computed: Computed
) -> None:
    split = flux.split(**PARALLEL)
    expected = picture(flux, split)
    computed.error, computed.fails_on = torch.OutOfMemoryError("as expected"), "npu:1"
    with capture_logs() as said:
        assert torch.equal(picture(flux, split), expected)
    events = [entry["event"] for entry in said]
    assert events.count("sampling_out_of_memory") == 2
    assert events.count("sampling_on_one_device") == 1


@pytest.mark.parametrize("how", ["patch", "wrapper", "function"])
def test_with_functions_of_other_nodes_one_device_computes_and_the_log_says_why_once(
    flux: Sampler, computed: Computed, how: str
) -> None:
    model = flux.split(**PARALLEL).clone()
    if how == "patch":
        model.set_model_attn1_patch(lambda *args, **kwargs: {})
    elif how == "wrapper":
        model.add_wrapper_with_key(
            "diffusion_model", "theirs", lambda executor, *args, **kwargs: executor(*args, **kwargs)
        )
    else:
        model.set_model_unet_function_wrapper(
            lambda apply_model, call: apply_model(call["input"], call["timestep"], **call["c"])
        )
    with capture_logs() as said:
        picture(flux, model)
    assert set(computed.devices) == {"npu:0"}
    assert [entry["reason"] for entry in said if entry["event"] == "computing_alone"] == [
        "another node has set functions into the model"
    ]


def test_the_panel_and_the_registry_see_every_device_s_bytes_and_unloading_frees_them(flux: Sampler) -> None:
    before = flux.comfyui.held_bytes()
    split = flux.split(**SPLITS["half of it streamed"])
    picture(flux, split)
    models = flux.comfyui.framework.context.models
    ((_, residency),) = models.residencies()
    sizes = residency.bytes_by_device
    assert sizes["npu:1"] >= sizes["npu:0"] > 0 < sizes["cpu"]
    assert flux.comfyui.held_bytes()[1] - before[1] >= sizes["npu:1"]
    model_management().unload_all_models()
    assert flux.comfyui.held_bytes() == before


def test_a_text_encoder_has_no_replicas(flux: Sampler) -> None:
    files = {"clip_name1": "clip_l.safetensors", "clip_name2": "t5xxl.safetensors"}
    clip = flux.comfyui.run("DualCLIPLoaderDisTorch2MultiGPU", type="flux", device="npu:0", **files, **PARALLEL)[0]
    assert clip.patcher.multigpu_placement.draft().work_shares == ()


def test_a_replicated_model_that_does_not_fit_on_the_second_gpu_is_refused_with_a_string_that_fits(
    flux: Sampler,
) -> None:
    flux.comfyui.machine.configure((4 * 1024**3, 3 * 1024**2, 2 * 1024**3))
    with pytest.raises(Exception, match="npu:1"):
        flux.split(**PARALLEL)
