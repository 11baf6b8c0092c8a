"""Whatever step of a load, an unload or a demotion fails: the model is wholly loaded or wholly at home.

Then none of our hooks is on it, ComfyUI's list is right, and the next load works.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from ..support.in_process import ComfyUI
from ..support.split_models import Sampler, model_management, weights_of

SPLIT = {"expert_mode_allocations": "npu:0,50%;npu:1,30%;cpu,20%"}
CORE = "multigpu.multigpu_core"
# Steps by what ComfyUI does with a model: module, class or "" for a function of the module, and name.
Step = tuple[str, str, str]
PATCHER = "comfy.model_patcher", "ModelPatcher"
DISTRIBUTION = f"{CORE}.execution.distribution", "Distribution"
UNLOADING: tuple[Step, ...] = (
    ("", "Injection", "eject"),
    (*PATCHER, "model_patches_to"),
    (*PATCHER, "unpatch_hooks"),
    (*PATCHER, "unpin_all_weights"),
    (f"{CORE}.comfy.split.placement", "", "log_unloaded"),
    (*DISTRIBUTION, "residency"),
    (*DISTRIBUTION, "release"),
    (f"{CORE}.execution.streaming.streamer", "Streamer", "detach"),
    (f"{CORE}.execution.distribution", "CurrentDevice", "detach"),
    (f"{CORE}.comfy.split.weight_patches", "AppliedPatches", "forget"),
    ("comfy.utils", "", "set_attr_param"),
    ("torch.nn", "Module", "to"),
    ("", "Injection", "detached"),
)
DEMOTING: tuple[Step, ...] = (
    ("", "Injection", "eject"),
    (*PATCHER, "unpatch_hooks"),
    (*DISTRIBUTION, "demote"),
    (*DISTRIBUTION, "place"),
    (*DISTRIBUTION, "serve"),
    (f"{CORE}.comfy.split.placement", "", "log_demoted"),
    ("", "Injection", "inject"),
)
LOADING: tuple[Step, ...] = (
    ("", "Injection", "eject"),
    ("", "Injection", "detached"),
    (*PATCHER, "patch_model"),
    (f"{CORE}.comfy.split.planning", "Planning", "plan"),
    (*DISTRIBUTION, "begin"),
    (*PATCHER, "patch_weight_to_device"),
    (*DISTRIBUTION, "place"),
    (*DISTRIBUTION, "serve"),
    ("comfy.model_patcher", "", "wipe_lowvram_weight"),
    ("", "Injection", "loaded"),
    (*PATCHER, "apply_hooks"),
    ("", "Injection", "inject"),
)


class BrokenError(RuntimeError):
    """An error that nobody expects."""


class Injection:
    """What a pack injects into a model, and its callbacks."""

    def inject(self, patcher: Any) -> None: ...

    def eject(self, patcher: Any) -> None: ...

    def loaded(self, *_: Any) -> None: ...

    def detached(self, *_: Any) -> None: ...


def _owner(step: Step) -> Any:
    module, owner, _ = step
    if not module:
        return Injection
    return getattr(importlib.import_module(module), owner) if owner else importlib.import_module(module)


def _moments(step: Step) -> tuple[bool, ...]:
    """Whether a step fails when it has done its work: of our own steps that move weights, both."""
    return (False, True) if step[:2] == DISTRIBUTION else (False,)


class Failing:
    """Lets one call of a step, or every one, fail before it or after it has done its work."""

    def __init__(self, step: Step, is_done_before: bool, times: int, error: type[BaseException] = BrokenError) -> None:
        self._step, self._is_done_before, self._error = step, is_done_before, error
        self._left = times
        self.failed = 0

    def __enter__(self) -> Failing:
        self._patch = pytest.MonkeyPatch()
        original = getattr(_owner(self._step), self._step[2])

        def fail(*args: Any, **kwargs: Any) -> Any:
            if not self._left:
                return original(*args, **kwargs)
            self._left -= 1
            self.failed += 1
            if self._is_done_before:
                original(*args, **kwargs)
            raise self._error

        self._patch.setattr(_owner(self._step), self._step[2], fail)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


@dataclass(frozen=True)
class Scene:
    """A split model with a LoRA, an injection and callbacks, and what is true of it."""

    comfyui: ComfyUI
    sampler: Sampler
    model: Any
    weights: dict[str, torch.Tensor]
    placed: dict[str, int]

    def load(self) -> None:
        model_management().load_models_gpu([self.model])

    def unload(self) -> None:
        model_management().free_memory(1e30, torch.device("npu:0"))

    def demote(self) -> None:
        (loaded,) = model_management().current_loaded_models
        loaded.model_unload(loaded.model_loaded_memory() // 2)

    @property
    def _listed(self) -> list[Any]:
        return [each.model for each in model_management().current_loaded_models]

    def is_loaded(self) -> bool:
        """Whether it is wholly loaded; fails where it is neither that nor wholly at home."""
        distribution = self.model.multigpu_placement.distribution
        has_hooks = any(m._forward_pre_hooks or m._forward_hooks for m in self.model.model.modules())
        assert torch.npu.current_device() == 0  # type: ignore[attr-defined]
        if distribution.plan is not None:
            assert has_hooks and distribution.is_served
            assert self._listed == [self.model]
            assert self.model.loaded_size() == self.model.multigpu_placement.compute_bytes_loaded > 0
            return True
        assert not has_hooks and not distribution.is_served
        if any(device.live_bytes for device in self.comfyui.machine.devices):  # collecting garbage takes its time
            assert self.comfyui.held_bytes() == [0, 0, 0]
        assert self.model.loaded_size() == 0 and self._listed in ([], [self.model])
        now = weights_of(self.model)
        assert all(torch.equal(now[name], weight) for name, weight in self.weights.items())
        return False

    def goes_on(self) -> None:
        """The next load and the next unload work."""
        self.load()
        assert self.is_loaded() and self.model.is_injected
        self.unload()
        assert not self.is_loaded() and self._listed == []


@pytest.fixture
def scene(comfyui: ComfyUI) -> Iterator[Scene]:
    sampler = Sampler(comfyui, "flux")
    split = sampler.split(**SPLIT)
    model = sampler.with_lora(split, 0.7)
    extension = importlib.import_module("comfy.patcher_extension")
    injection = Injection()

    def called(name: str) -> Callable[..., None]:
        return lambda *args: getattr(injection, name)(*args)

    model.set_injections("pack", [extension.PatcherInjection(called("inject"), called("eject"))])
    model.add_callback(extension.CallbacksMP.ON_LOAD, called("loaded"))
    model.add_callback(extension.CallbacksMP.ON_DETACH, called("detached"))
    weights = weights_of(split)
    model_management().load_models_gpu([model])
    placed = model.multigpu_placement.distribution.bytes_by_device()
    yield Scene(comfyui, sampler, model, weights, placed)


def _picture_is_right(scene: Scene) -> None:
    made = scene.sampler.picture(scene.model)
    scene.comfyui.reset()
    whole = scene.sampler.with_lora(scene.sampler.whole(), 0.7)
    assert torch.equal(made, scene.sampler.picture(whole))


def test_an_unload_one_step_of_which_fails_is_finished_and_raises_nothing_of_its_own(scene: Scene) -> None:
    """ComfyUI's list is wrong after an unload that raises. What a pack's callback raises is ComfyUI's to handle."""
    for step in UNLOADING:
        for is_done_before in _moments(step):
            scene.load()
            assert scene.is_loaded(), "the next load works"
            with Failing(step, is_done_before, times=1) as fault:
                try:
                    scene.unload()
                except BrokenError:
                    assert step[2] in ("eject", "model_patches_to", "detached"), step
            assert fault.failed == 1, step
            assert not scene.is_loaded(), step
    scene.goes_on()
    _picture_is_right(scene)


@pytest.mark.parametrize("step", [("", "Injection", "eject"), ("", "Injection", "detached")], ids=lambda step: step[2])
def test_a_pack_s_code_that_always_fails_does_not_keep_the_weights_on_their_devices(scene: Scene, step: Step) -> None:
    with Failing(step, is_done_before=False, times=100), pytest.raises(BrokenError):
        scene.unload()
    assert not scene.is_loaded()
    scene.goes_on()


@pytest.mark.parametrize("step", [(*DISTRIBUTION, "release"), ("torch.nn", "Module", "to")], ids=lambda step: step[2])
def test_an_unload_that_fails_twice_says_so(scene: Scene, step: Step) -> None:
    with Failing(step, is_done_before=False, times=2) as fault, pytest.raises(BrokenError):
        scene.unload()
    assert fault.failed == 2
    scene.unload()
    assert not scene.is_loaded()
    scene.goes_on()


def test_an_unload_that_is_interrupted_is_finished_and_says_so(scene: Scene) -> None:
    with Failing((*DISTRIBUTION, "release"), True, 1, KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        scene.unload()
    assert not scene.is_loaded()
    scene.goes_on()


def test_the_log_says_that_an_unload_took_a_second_try(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    with Failing((*DISTRIBUTION, "release"), False, 1):
        scene.unload()
    (line,) = [each.getMessage() for each in caplog.records if "second try" in each.getMessage()]
    assert "Unloading Flux failed (BrokenError())" in line


def test_a_demotion_one_step_of_which_fails_leaves_the_model_loaded(scene: Scene) -> None:
    for step in DEMOTING:
        for is_done_before in _moments(step):
            scene.load()
            with Failing(step, is_done_before, times=1) as fault, pytest.raises(BrokenError):
                scene.demote()
            assert fault.failed == 1, step
            assert scene.is_loaded(), step
    scene.goes_on()
    _picture_is_right(scene)


def test_a_demotion_that_can_not_even_be_put_back_takes_the_model_home(scene: Scene) -> None:
    with Failing((*DISTRIBUTION, "serve"), False, times=2) as fault, pytest.raises(BrokenError):
        scene.demote()
    assert fault.failed == 2
    assert not scene.is_loaded()
    scene.goes_on()


def test_a_load_one_step_of_which_fails_leaves_the_model_at_home(scene: Scene) -> None:
    """Also where the failure, or a second one, is in what takes it home."""
    scene.unload()
    for step in LOADING:
        for is_done_before in _moments(step):
            if step[2] in ("eject", "detached"):  # which are called for a model that is loaded already
                scene.load()
            with Failing(step, is_done_before, times=1) as fault, pytest.raises(BrokenError):
                scene.load()
            assert fault.failed == 1, step
            assert not scene.is_loaded(), step
    scene.goes_on()
    twice = Failing((*DISTRIBUTION, "serve"), False, 1), Failing(("", "Injection", "eject"), False, 9)
    with twice[0], twice[1], pytest.raises(BrokenError):
        scene.load()
    assert not scene.is_loaded()
    scene.goes_on()
    _picture_is_right(scene)


def test_a_load_that_fails_leaves_a_later_injection_possible(scene: Scene) -> None:
    with Failing(("", "Injection", "eject"), False, times=1), pytest.raises(BrokenError):
        scene.model.partially_load(scene.model.load_device, 1e30)
    assert not scene.model.skip_injection
