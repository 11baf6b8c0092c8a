"""Memory that runs out: while a split model loads, and while it samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from ..support.in_process import ComfyUI
from ..support.split_models import MODES, Sampler, model_management

MB = 2**20


@pytest.fixture
def sampler(comfyui: ComfyUI) -> Sampler:
    return Sampler(comfyui, "flux")


@pytest.fixture
def expected(sampler: Sampler, comfyui: ComfyUI) -> torch.Tensor:
    """The picture of a card that has room for all."""
    picture = sampler.picture(sampler.whole(), steps=2)
    comfyui.reset()
    return picture


@pytest.fixture
def set_memory(comfyui: ComfyUI) -> Iterator[Callable[..., None]]:
    """Sets entries of plugins.toml's [memory]."""
    host = comfyui.framework.context.host
    before = host.memory

    def set_entries(**entries: Any) -> None:
        host.memory = replace_settings(before, entries)

    yield set_entries
    host.memory = before


def replace_settings(settings: Any, entries: dict[str, Any]) -> Any:
    return type(settings)(**{**settings.model_dump(), **entries})


def _another_program_takes(split: Any, size_bytes: int, device: str = "npu:0") -> list[torch.Tensor]:
    """When the plan is made, and the driver has said what is free, some of that goes to another program."""
    begin, taken = split.multigpu_placement.distribution.begin, []

    def then_take(plan: Any) -> None:
        begin(plan)
        if not taken:
            taken.append(torch.zeros(size_bytes, dtype=torch.uint8, device=device))

    split.multigpu_placement.distribution.begin = then_take
    return taken


AUTOMATIC = {"virtual VRAM": {"virtual_vram_gb": 0.001, "donor_device": "npu:1"}, "auto": MODES["auto"]}


def _card_that_almost_fits(comfyui: ComfyUI, wishes: dict[str, Any], spare: int = 4 * MB) -> None:
    """A card with room for what the plan gives it, and a little for inference."""
    reserve = int(model_management().minimum_inference_memory()) if wishes == MODES["auto"] else 0
    comfyui.machine.configure([reserve + 10 * MB + spare, 64 * MB, 64 * MB])


@pytest.mark.parametrize("wishes", AUTOMATIC.values(), ids=AUTOMATIC)
def test_a_load_that_runs_out_of_memory_offloads_more_and_is_done(
    sampler: Sampler, comfyui: ComfyUI, expected: torch.Tensor, wishes: dict[str, Any]
) -> None:
    _card_that_almost_fits(comfyui, wishes)
    split = sampler.split(**wishes)
    free = comfyui.machine.devices[0].free_bytes
    taken = _another_program_takes(split, free - 4 * MB)
    with capture_logs() as logs:
        model_management().load_models_gpu([split])
    plan = split.multigpu_placement.distribution.plan
    assert 0 < plan.compute_bytes <= 4 * MB
    assert split.multigpu_placement.distribution.bytes_by_device() == {
        d: s for d, s in plan.bytes_by_device.items() if s
    }
    assert any("npu:0 ran out of memory" in entry["message"] for entry in logs)
    taken.clear()
    assert torch.equal(sampler.picture(split, steps=2), expected)


def test_a_split_that_the_user_wrote_out_is_not_bent_and_the_error_says_what_fits(
    sampler: Sampler, comfyui: ComfyUI, expected: torch.Tensor
) -> None:
    comfyui.machine.configure([64 * MB, 64 * MB, 64 * MB])
    split = sampler.split(expert_mode_allocations="npu:0,90%;npu:1,10%")
    taken = _another_program_takes(split, 60 * MB)
    with pytest.raises(model_management().OOM_EXCEPTION, match="npu:0 ran out of memory") as error:
        model_management().load_models_gpu([split])
    assert comfyui.held_bytes() == [60 * MB, 0, 0]
    assert error.value.fitting_string in str(error.value)
    again = sampler.split(expert_mode_allocations=error.value.fitting_string)
    model_management().load_models_gpu([again])
    assert comfyui.held_bytes()[0] > 60 * MB
    taken.clear()
    assert torch.equal(sampler.picture(again, steps=2), expected)


def test_with_retry_load_off_running_out_of_memory_is_an_error_at_once(
    sampler: Sampler, comfyui: ComfyUI, set_memory: Callable[..., None]
) -> None:
    set_memory(retry_load=False)
    comfyui.machine.configure([64 * MB, 64 * MB, 64 * MB])
    split = sampler.split(**AUTOMATIC["virtual VRAM"])
    taken = _another_program_takes(split, 60 * MB)
    with pytest.raises(model_management().OOM_EXCEPTION):
        model_management().load_models_gpu([split])
    assert comfyui.held_bytes() == [60 * MB, 0, 0]
    taken.clear()


def _crowded(comfyui: ComfyUI, split: Any, spare: int) -> torch.Tensor:
    """Another program leaves the compute device with `spare` bytes beside the loaded weights."""
    model_management().load_models_gpu([split])
    free = comfyui.machine.devices[0].free_bytes
    return torch.zeros(free - spare, dtype=torch.uint8, device="npu:0")


WISHES = {
    "virtual VRAM": AUTOMATIC["virtual VRAM"],
    "half of it": {"expert_mode_allocations": "npu:0,50%;cpu,50%"},
    "no more than its heads": MODES["ratio"],
    "relay": MODES["relay"],
}


@pytest.mark.parametrize("wishes", WISHES.values(), ids=WISHES)
def test_a_sampling_that_runs_out_of_memory_is_done_again_and_gives_the_same_picture(
    sampler: Sampler, comfyui: ComfyUI, expected: torch.Tensor, wishes: dict[str, Any]
) -> None:
    split = sampler.split(**wishes)
    occupant = _crowded(comfyui, split, 20_000)
    with capture_logs() as logs:
        picture = sampler.picture(split, steps=2)
    assert torch.equal(picture, expected)
    warnings = [entry["message"] for entry in logs if entry["log_level"] == "warning"]
    assert warnings and all("retrying with the same seed" in each and "To avoid this, set" in each for each in warnings)
    assert torch.equal(sampler.picture(split, steps=2), expected), "what was offloaded stays so"
    del occupant


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_sde"])
def test_samplers_that_draw_noise_draw_the_same_again(sampler: Sampler, comfyui: ComfyUI, name: str) -> None:
    def sampled(model: Any) -> torch.Tensor:
        from ..support.outputs import conditioning

        latent, prompt = {"samples": torch.zeros(1, 16, 4, 4)}, conditioning()
        result = comfyui.nodes.common_ksampler(model, 5, 2, 1.0, name, "simple", prompt, prompt, latent)
        samples: torch.Tensor = result[0]["samples"]
        return samples

    expected = sampled(sampler.whole())
    comfyui.reset()
    split = sampler.split(**AUTOMATIC["virtual VRAM"])
    occupant = _crowded(comfyui, split, 20_000)
    with capture_logs() as logs:
        assert torch.equal(sampled(split), expected)
    assert any("retrying with the same seed" in entry["message"] for entry in logs)
    del occupant


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_a_sampling_is_tried_as_often_as_the_user_wants_and_no_more(
    sampler: Sampler, comfyui: ComfyUI, set_memory: Callable[..., None], retries: int
) -> None:
    set_memory(sampling_retries=retries)
    split = sampler.split(**AUTOMATIC["virtual VRAM"])
    stored = dict(split.model.named_parameters())
    runs = []

    def out_of_memory(module: torch.nn.Module, args: object) -> None:
        runs.append(module)
        raise torch.OutOfMemoryError("NPU out of memory")

    handle = split.model.diffusion_model.final_layer.register_forward_pre_hook(out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        sampler.picture(split)
    handle.remove()
    assert len(runs) == 1 + retries
    assert stored.keys() == dict(split.model.named_parameters()).keys()
