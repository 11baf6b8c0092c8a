"""A relayed model makes the picture of one device: with CFG, ControlNets, batches, and after a sampling broke off."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ..support.in_process import ComfyUI
from ..support.split_models import MODES, Sampler, model_management, write_split_models
from ..support.tiny_files import T5_WIDTH

RELAY = MODES["relay"]
STEPS = 2
MARK: ContextVar[str] = ContextVar("mark", default="none")
SECOND_HALF = "multigpu call 2"
"""The thread that issues it."""


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


class Halves:
    """What the first and the second double block of Flux were called in: by which thread, and in which state."""

    def __init__(self, model: Any) -> None:
        self.calls: list[tuple[int, str]] = []
        self.states: set[tuple[Any, ...]] = set()
        self.error: BaseException | None = None
        """Raised when the second double block is called by the second half."""
        blocks = model.model.diffusion_model.double_blocks
        self._handles = [block.register_forward_pre_hook(partial(self._note, i)) for i, block in enumerate(blocks)]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    @property
    def alternate(self) -> bool:
        """Whether in the last step the second half had a thread of its own."""
        threads = [name for _, name in self.calls[-2 * len(self._handles) :]]
        return threads.count(SECOND_HALF) == len(self._handles)

    def _note(self, index: int, *_: Any) -> None:
        thread = threading.current_thread()
        self.calls.append((index, thread.name))
        self.states.add((torch.is_inference_mode_enabled(), torch.is_grad_enabled(), MARK.get()))
        if self.error is not None and index == 1 and thread.name == SECOND_HALF:
            raise self.error


class Runs:
    """Counts what was run in micro-batches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from multigpu.multigpu_core.execution.parallel.micro_batches import MicroBatches

        self.count = 0
        run = MicroBatches.run

        def counted(micro_batches: Any, halves: Any, kind: Any, **options: Any) -> Any:
            self.count += 1
            return run(micro_batches, halves, kind, **options)

        monkeypatch.setattr(MicroBatches, "run", counted)


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
    assert not torch.equal(picture(sampler, lora), expected), "clones run in micro-batches, too"
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


def one_image_at_a_time(apply_model: Callable[..., Tensor], call: Mapping[str, Any]) -> Tensor:
    """For ComfyUI's `set_model_unet_function_wrapper`: a batch of two is rounded otherwise than each image alone."""

    def image(index: int) -> Tensor:
        def narrowed(value: Any) -> Any:
            is_batched = isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == 2
            return value[index : index + 1] if is_batched else value

        given = {name: narrowed(value) for name, value in call["c"].items()}
        return apply_model(narrowed(call["input"]), narrowed(call["timestep"]), **given)

    return torch.cat([image(0), image(1)])


def test_two_images_are_computed_at_once(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Sampler(comfyui, "flux")
    whole = sampler.whole()
    whole.set_model_unet_function_wrapper(one_image_at_a_time)
    expected = picture(sampler, whole, cfg=1.0, batch=2)
    runs = Runs(monkeypatch)
    made = picture(sampler, sampler.split(**RELAY), cfg=1.0, batch=2)
    assert runs.count == STEPS
    assert torch.equal(made, expected)
    assert not torch.equal(made[0], made[1])


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


@pytest.fixture
def alternating(comfyui: ComfyUI) -> Iterator[tuple[Sampler, Any, Halves]]:
    """Flux on two cards after a first sampling, in which one half follows the other for one step."""
    write_split_models(comfyui)
    sampler = Sampler(comfyui, "flux")
    split = sampler.split(**RELAY)
    picture(sampler, split)
    halves = Halves(split)
    yield sampler, split, halves
    halves.remove()


def test_halves_alternate_on_two_threads_in_the_state_of_the_prompts_worker(
    alternating: tuple[Sampler, Any, Halves],
) -> None:
    sampler, split, halves = alternating
    token = MARK.set("the prompt's")
    try:
        with torch.inference_mode():
            picture(sampler, split)
    finally:
        MARK.reset(token)
    assert halves.alternate
    assert {name for _, name in halves.calls} == {threading.current_thread().name, SECOND_HALF}
    assert halves.states == {(True, False, "the prompt's")}
    assert SECOND_HALF not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("interrupt", [True, False])
def test_an_interrupt_or_error_in_the_second_halfs_thread_ends_the_sampling_and_the_next_is_right(
    comfyui: ComfyUI, alternating: tuple[Sampler, Any, Halves], interrupt: bool
) -> None:
    sampler, split, halves = alternating
    expected = picture(sampler, split)
    held = comfyui.held_bytes()
    halves.error = model_management().InterruptProcessingException() if interrupt else ValueError()
    with pytest.raises(type(halves.error)) as raised:
        picture(sampler, split)
    assert raised.value is halves.error
    del raised
    halves.error = None
    assert SECOND_HALF not in {thread.name for thread in threading.enumerate()}
    assert torch.equal(picture(sampler, split), expected)
    assert comfyui.held_bytes() == held


def _patched(model: Any) -> None:
    model.set_model_attn1_output_patch(lambda output, options: output)


def _wrapped(model: Any) -> None:
    model.add_wrapper("diffusion_model", lambda executor, *args, **kwargs: executor(*args, **kwargs))


def _called_around(model: Any) -> None:
    model.set_model_unet_function_wrapper(lambda apply, call: apply(call["input"], call["timestep"], **call["c"]))


def _attention_overridden(model: Any) -> None:
    def attention(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    model.model_options["transformer_options"]["optimized_attention_override"] = attention


@pytest.mark.parametrize("extend", [_patched, _wrapped, _called_around, _attention_overridden])
def test_with_functions_of_other_extensions_in_the_forward_one_half_follows_the_other(
    alternating: tuple[Sampler, Any, Halves], extend: Callable[[Any], None]
) -> None:
    sampler, split, halves = alternating
    expected = picture(sampler, split)
    assert halves.alternate
    halves.calls.clear()
    extended = split.clone()
    extend(extended)
    assert torch.equal(picture(sampler, extended), expected)
    assert not halves.alternate
    assert {name for _, name in halves.calls} == {threading.current_thread().name}


def test_models_may_empty_the_lists_of_their_half() -> None:
    from multigpu.multigpu_core.comfy.split.cond_batch import ModelCall

    control = {"output": [torch.ones(1, 2), None]}  # one for the whole batch
    call = ModelCall((torch.zeros(2, 1), None, None, None, control), {}, {"cond_or_uncond": [0, 1]})
    first, second = call.half(0), call.half(1)
    first.args[4]["output"].clear()
    assert len(second.args[4]["output"]) == len(control["output"]) == 2


def test_unloading_gives_all_memory_back(sampler: Sampler) -> None:
    split = sampler.split(**RELAY)
    picture(sampler, split)
    split.detach()
    assert sampler.comfyui.held_bytes() == [0, 0, 0]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in split.model.modules())


def test_a_block_that_uses_a_tensor_it_was_not_given_is_refused_with_what_to_set(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SeedVR2's blocks share a cache of functions that hold tensors of one device."""
    layers = importlib.import_module("comfy.ldm.flux.layers")
    forward, cached = layers.SingleStreamBlock.forward, SimpleNamespace(shift=torch.zeros(1, device="npu:0"))

    def with_cache(block: Any, *args: Any, **kwargs: Any) -> Tensor:
        return forward(block, *args, **kwargs).add_(cached.shift)

    monkeypatch.setattr(layers.SingleStreamBlock, "forward", with_cache)
    sampler = Sampler(comfyui, "flux")
    expected = sampler.picture(sampler.whole())
    with pytest.raises(RuntimeError, match=r"strategy relay: .*Set strategy to interleave or contiguous.*npu:1"):
        sampler.picture(sampler.split(**RELAY))
    allocation = RELAY["expert_mode_allocations"]
    assert torch.equal(sampler.picture(sampler.split(expert_mode_allocations=allocation)), expected)
