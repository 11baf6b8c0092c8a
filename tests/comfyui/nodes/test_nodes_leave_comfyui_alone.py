"""Outside the calls of our own nodes ComfyUI is as it was: its answers, its results, its copies, its functions."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

from multigpu.testing import CopyRecord

from ..support.in_process import ComfyUI
from ..support.outputs import sampled

REPLACED = (
    "get_torch_device", "text_encoder_device", "vae_device", "unet_offload_device", "text_encoder_offload_device",
    "vae_offload_device", "unet_inital_load_device", "text_encoder_initial_device", "free_memory", "soft_empty_cache",
    "unload_all_models",
)  # fmt: skip
FLUX = {"unet_name": "flux.safetensors", "weight_dtype": "default"}


@pytest.fixture
def mm(comfyui: ComfyUI) -> ModuleType:
    import comfy.model_management

    module: ModuleType = comfy.model_management
    return module


@pytest.fixture
def without_us(comfyui: ComfyUI) -> Iterator[Callable[[], None]]:
    """Takes every patch of ours out; afterwards they are back."""
    patches = comfyui.framework.patches
    yield comfyui.framework.stop
    patches.restore()
    patches.install()
    comfyui.framework.registration.register_late()  # core's nodes follow our models again


def _answers(mm: ModuleType) -> dict[str, str]:
    """What ComfyUI's device functions say; those that take arguments are asked about one model."""
    asked: dict[str, tuple[Any, ...]] = {
        "get_torch_device": (),
        "text_encoder_device": (),
        "text_encoder_offload_device": (),
        "vae_device": (),
        "vae_offload_device": (),
        "unet_offload_device": (),
        "unet_inital_load_device": (1000, torch.float16),
        "text_encoder_initial_device": (torch.device("npu:0"), torch.device("cpu"), 1000),
    }
    return {name: str(getattr(mm, name)(*arguments)) for name, arguments in asked.items()}


def _core_workflow(comfyui: ComfyUI) -> tuple[torch.Tensor, tuple[CopyRecord, ...]]:
    """Load, LoRA, sample and unload with core's nodes alone; the latent and the copies between devices."""
    import comfy.model_management as mm

    comfyui.machine.copies.clear()
    (model,) = comfyui.run("UNETLoader", **FLUX)
    (model,) = comfyui.run("LoraLoaderModelOnly", model=model, lora_name="flux.safetensors", strength_model=0.7)
    latent = sampled(comfyui, model)
    mm.unload_all_models()
    mm.soft_empty_cache()
    return latent, comfyui.machine.copies.records


def test_restoring_puts_the_very_functions_back(mm: ModuleType, without_us: Callable[[], None]) -> None:
    functions = {name: function for name, function in vars(mm).items() if inspect.isfunction(function)}
    replaced = {name for name, function in functions.items() if function.__module__.startswith("multigpu")}
    originals = {name: functions[name].__wrapped__ for name in replaced}
    assert {"get_torch_device", "free_memory", "soft_empty_cache", "unload_all_models"} <= replaced
    without_us()
    for name, original in originals.items():
        assert getattr(mm, name) is original
        assert original.__module__ == "comfy.model_management"


def test_restoring_makes_the_modules_of_dynamic_vram_s_switch_ordinary_again(without_us: Callable[[], None]) -> None:
    import comfy.memory_management
    import comfy.model_patcher

    modules: list[ModuleType] = [comfy.memory_management, comfy.model_patcher]
    chosen = comfy.model_patcher.CoreModelPatcher
    assert all(type(module) is not ModuleType for module in modules)
    without_us()
    assert all(type(module) is ModuleType for module in modules)
    assert comfy.model_patcher.CoreModelPatcher is chosen


def test_replaced_functions_show_comfyuis_own_signatures(mm: ModuleType) -> None:
    assert str(inspect.signature(mm.unet_inital_load_device)) == "(parameters, dtype)"
    assert mm.get_torch_device.__name__ == "get_torch_device"


def test_device_functions_answer_as_without_us(
    comfyui: ComfyUI, mm: ModuleType, without_us: Callable[[], None]
) -> None:
    comfyui.run("UNETLoaderMultiGPU", **FLUX, device="npu:2")
    with_us = _answers(mm)
    without_us()
    assert with_us == _answers(mm)


def test_a_core_workflow_gives_the_same_latent_by_the_same_copies_as_without_us(
    comfyui: ComfyUI, without_us: Callable[[], None]
) -> None:
    latent, copies = _core_workflow(comfyui)
    without_us()
    latent_without, copies_without = _core_workflow(comfyui)
    assert torch.equal(latent, latent_without)
    assert copies == copies_without and len(copies) > 20


def test_a_core_workflow_is_the_same_beside_a_loaded_split_model(comfyui: ComfyUI) -> None:
    alone, copies_alone = _core_workflow(comfyui)
    split = {"compute_device": "npu:1", "expert_mode_allocations": "npu:1,50%;npu:2,50%"}
    (ours,) = comfyui.run("UNETLoaderDisTorch2MultiGPU", **FLUX, **split)
    sampled(comfyui, ours)
    beside, copies_beside = _core_workflow(comfyui)
    assert torch.equal(alone, beside)
    core_devices = {"cpu", "npu:0"}
    assert [copy for copy in copies_beside if {copy.source, copy.destination} <= core_devices] == list(copies_alone)


def test_no_hook_of_ours_is_on_a_model_that_core_loaded(comfyui: ComfyUI) -> None:
    (model,) = comfyui.run("UNETLoader", **FLUX)
    sampled(comfyui, model)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.model.modules())
    assert type(model).__module__ == "comfy.model_patcher"


def test_a_loader_that_fails_leaves_no_device_behind(
    comfyui: ComfyUI, mm: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_patcher

    before, patcher_class = _answers(mm), comfy.model_patcher.CoreModelPatcher

    def failing(self: Any, **inputs: Any) -> None:
        assert str(mm.get_torch_device()) == "npu:2"
        raise OSError("the disk is gone")

    monkeypatch.setattr(comfyui.nodes.UNETLoader, "load_unet", failing)
    split = {"compute_device": "npu:2", "expert_mode_allocations": "npu:2,50%;cpu,50%"}
    with pytest.raises(OSError, match="the disk is gone"):
        comfyui.run("UNETLoaderDisTorch2MultiGPU", **FLUX, **split)
    assert _answers(mm) == before
    assert comfy.model_patcher.CoreModelPatcher is patcher_class


def test_threads_do_not_see_each_others_device(comfyui: ComfyUI, mm: ModuleType) -> None:
    from multigpu.multigpu_core.comfy.host.scope import Devices, device_scope

    inside, seen = threading.Barrier(3), {}

    def load_on(device: torch.device) -> None:
        with device_scope(Devices(device)):
            inside.wait(10)
            seen[str(device)] = str(mm.get_torch_device())
            inside.wait(10)

    threads = [threading.Thread(target=load_on, args=(torch.device(name),)) for name in ("npu:1", "npu:2")]
    for thread in threads:
        thread.start()
    inside.wait(10)
    outside = str(mm.get_torch_device())
    inside.wait(10)
    for thread in threads:
        thread.join()
    assert outside == "npu:0"
    assert seen == {"npu:1": "npu:1", "npu:2": "npu:2"}


@pytest.mark.parametrize("function", REPLACED)
def test_a_function_that_this_comfyui_lacks_is_left_alone(
    comfyui: ComfyUI,
    mm: ModuleType,
    without_us: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    function: str,
) -> None:
    from multigpu.multigpu_core.comfy.host.core_patches import CorePatches

    without_us()
    monkeypatch.delattr(mm, function)
    patches = CorePatches(lambda core: core(), lambda: None)
    patches.install()
    try:
        assert not hasattr(mm, function)
        others = [name for name in REPLACED if name != function]
        assert all(getattr(mm, name).__module__.startswith("multigpu") for name in others)
    finally:
        patches.restore()


def test_the_queue_the_executor_and_python_s_thread_hook_are_as_before_without_us(
    comfyui: ComfyUI, without_us: Callable[[], None]
) -> None:
    import execution

    replaced = (execution.PromptQueue, "get"), (execution.PromptExecutor, "reset")
    worker = comfyui.framework.worker
    worker.watch()
    ours = threading.excepthook
    assert all(getattr(owner, name).__module__.startswith("multigpu") for owner, name in replaced)
    without_us()
    assert all(getattr(owner, name).__module__ == "execution" for owner, name in replaced)
    assert threading.excepthook != ours
    worker.watch()
