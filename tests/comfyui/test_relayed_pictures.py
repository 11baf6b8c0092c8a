"""A relayed model makes the picture of one device: with CFG, ControlNets, batches, and after a sampling broke off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from .inprocess import ComfyUI
from .split_models import MODES, Sampler, model_management, write_split_models
from .tiny_files import T5_WIDTH

RELAY = MODES["relay"]
STEPS = 2


@pytest.fixture(autouse=True)
def races(comfyui: ComfyUI) -> Iterator[None]:
    comfyui.machine.detect_races = True
    yield
    comfyui.machine.detect_races = False


@pytest.fixture(params=["flux", "wan"])
def sampler(comfyui: ComfyUI, request: pytest.FixtureRequest) -> Sampler:
    write_split_models(comfyui)
    return Sampler(comfyui, request.param)


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """ComfyUI believes that there is no room for a batch, and runs cond and uncond one after the other."""
    import comfy.model_base

    monkeypatch.setattr(comfy.model_base.BaseModel, "memory_required", lambda *args, **kwargs: 1e30)
    return monkeypatch


class Runs:
    """Counts what was run in ping-pong."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from multigpu.multigpu_core.execution.ping_pong import PingPong

        self.count = 0
        run = PingPong.run

        def counted(ping_pong: Any, halves: Any, kind: Any) -> Any:
            self.count += 1
            return run(ping_pong, halves, kind)

        monkeypatch.setattr(PingPong, "run", counted)


def picture(sampler: Sampler, model: Any, cfg: float = 4.0, batch: int = 1, control: Any = None) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    options: list[dict[str, Any]] = [{}, {}]
    if sampler.architecture == "flux":
        options = [{"pooled_output": torch.randn(1, 64, generator=generator), "guidance": 3.5} for _ in range(2)]
    if control is not None:
        for each in options:
            each.update(control=control, control_apply_to_uncond=True)
    positive, negative = ([[torch.randn(1, 8, T5_WIDTH, generator=generator), each]] for each in options)
    size = (batch, 16, 8, 8) if sampler.architecture == "flux" else (batch, 16, 2, 4, 4)
    nodes = sampler.comfyui.nodes
    latent = {"samples": torch.zeros(size)}
    result = nodes.common_ksampler(model, 5, STEPS, cfg, "euler", "simple", positive, negative, latent)
    samples: Tensor = result[0]["samples"]
    return samples


def residuals() -> Any:
    """A ControlNet that is nothing but what it adds, for both halves of a batch."""
    import comfy.controlnet

    class Residuals(comfy.controlnet.ControlBase):
        def get_control(self, x_noisy: Tensor, *args: Any) -> dict[str, list[Tensor | None]]:
            generator = torch.Generator().manual_seed(7)
            add = torch.randn(x_noisy.shape[0] // 2 or 1, 5, 128, generator=generator).to(x_noisy)
            add = add.repeat(x_noisy.shape[0] // add.shape[0], 1, 1)
            return {"input": [add, None, add * 2, add * 3], "output": [add * i for i in range(8)]}

        def copy(self) -> Any:
            return self

    return Residuals()


def test_cond_and_uncond_at_once_make_what_they_make_one_after_the_other(
    sampler: Sampler, little_memory: pytest.MonkeyPatch
) -> None:
    expected = picture(sampler, sampler.whole())
    little_memory.undo()
    runs = Runs(little_memory)
    split = sampler.split(**RELAY)
    for _ in range(2):
        assert torch.equal(picture(sampler, split), expected)
    assert runs.count == 2 * STEPS
    lora = sampler.with_lora(split, 0.7, sampler.architecture)
    assert not torch.equal(picture(sampler, lora), expected), "clones run in ping-pong, too"
    assert runs.count == 3 * STEPS


def test_without_room_for_a_batch_nothing_changes(sampler: Sampler, little_memory: pytest.MonkeyPatch) -> None:
    runs = Runs(little_memory)
    expected = picture(sampler, sampler.whole())
    assert torch.equal(picture(sampler, sampler.split(**RELAY)), expected)
    assert not runs.count


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_controlnet_residuals_reach_the_blocks_wherever_they_compute(
    comfyui: ComfyUI, little_memory: pytest.MonkeyPatch, cfg: float
) -> None:
    sampler = Sampler(comfyui, "flux")
    plain = picture(sampler, sampler.whole(), cfg)
    expected = picture(sampler, sampler.whole(), cfg, control=residuals())
    assert not torch.equal(plain, expected)
    little_memory.undo()
    split = sampler.split(**RELAY)
    assert torch.equal(picture(sampler, split, cfg, control=residuals()), expected)


def test_two_images_are_computed_at_once(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Sampler(comfyui, "flux")
    expected = picture(sampler, sampler.whole(), cfg=1.0, batch=2)
    runs = Runs(monkeypatch)
    made = picture(sampler, sampler.split(**RELAY), cfg=1.0, batch=2)
    assert runs.count == STEPS
    assert torch.allclose(made, expected, atol=0.1), "one image at a time is rounded otherwise than two"
    assert not torch.allclose(made[0], made[1], atol=0.1)


@pytest.mark.parametrize("interrupt", [True, False])
def test_a_sampling_that_breaks_off_leaves_nothing_behind(comfyui: ComfyUI, interrupt: bool) -> None:
    sampler = Sampler(comfyui, "flux")
    split = sampler.split(**RELAY)
    expected = picture(sampler, split)
    held = comfyui.held_bytes()
    error = model_management().InterruptProcessingException if interrupt else ValueError
    calls = 0

    def breaking(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise error
        return {}

    patched = split.clone()
    patched.set_model_attn1_patch(breaking)
    with pytest.raises(error):
        picture(sampler, patched)
    del patched
    assert torch.equal(picture(sampler, split), expected)
    assert comfyui.held_bytes() == held


def test_unloading_gives_all_memory_back(sampler: Sampler) -> None:
    split = sampler.split(**RELAY)
    picture(sampler, split)
    split.detach()
    assert sampler.comfyui.held_bytes() == [0, 0, 0]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in split.model.modules())
