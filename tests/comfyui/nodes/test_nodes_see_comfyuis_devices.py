"""Our nodes offer the devices that this ComfyUI may use, and say which of its flags hides another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from multigpu.multigpu_core.devices import DeviceError, HardwareProfile, LinkSpeed, save_profile

from ..support.in_process import ComfyUI


@pytest.fixture
def set_flags(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> Any:
    """ComfyUI as if it had been started with these flags."""
    from comfy.cli_args import args

    def set_them(**flags: Any) -> None:
        for name, value in flags.items():
            monkeypatch.setattr(args, name, value)

    return set_them


def _registry() -> Any:
    from multigpu.multigpu_core.comfy.host.devices_in_comfyui import comfyui_registry

    return comfyui_registry()


def test_all_devices_are_offered_and_the_default_is_comfyuis_own(comfyui: ComfyUI) -> None:
    assert list(_registry().names()) == ["cpu", "npu:0", "npu:1", "npu:2"]
    assert comfyui.framework.context.host.default_device() == "npu:0"


def test_with_the_cpu_flag_there_is_only_the_cpu(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.model_management as mm

    monkeypatch.setattr(mm, "cpu_state", mm.CPUState.CPU)
    registry = _registry()
    assert list(registry.names()) == ["cpu"]
    for device in ("npu:0", "cuda:1", "gpu:0"):
        with pytest.raises(DeviceError) as caught:
            registry.resolve(device)
        assert str(caught.value).count("--cpu") == 1 and "--cuda-device" not in str(caught.value), device


def test_with_the_directml_flag_there_are_its_device_and_the_cpu(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management as mm

    monkeypatch.setattr(mm, "is_directml_enabled", lambda: True)
    registry = _registry()
    assert list(registry.names()) == ["cpu", "npu:0"]
    with pytest.raises(DeviceError, match="--directml"):
        registry.resolve("npu:1")


@pytest.mark.parametrize("device", ["cuda:1", "npu:5"])
def test_a_card_that_the_cuda_device_flag_hides_is_named_with_the_flag(set_flags: Any, device: str) -> None:
    set_flags(cuda_device="0")
    with pytest.raises(DeviceError, match="--cuda-device 0"):
        _registry().resolve(device)


def test_a_flag_that_shows_all_cards_is_not_blamed(set_flags: Any) -> None:
    set_flags(cuda_device="all")
    with pytest.raises(DeviceError) as caught:
        _registry().resolve("npu:5")
    assert "--cuda-device" not in str(caught.value)


def test_a_card_that_an_environment_variable_hides_is_named_with_it(
    set_flags: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(DeviceError, match="CUDA_VISIBLE_DEVICES"):
        _registry().resolve("cuda:1")


def test_speeds_measured_while_comfyui_runs_are_gone_by_from_then_on(
    comfyui: ComfyUI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "profile.json"
    monkeypatch.setenv("MULTIGPU_PROFILE", str(file))
    host = comfyui.framework.context.host
    assert host.profile.links["cpu", "npu:0"].bytes_per_second != 3e9
    save_profile(HardwareProfile({("cpu", "npu:0"): LinkSpeed(3e9, 2e9, 1e-5)}, {}), host.registry, file)
    assert host.profile.links["cpu", "npu:0"].bytes_per_second == 3e9


def test_a_device_that_was_hidden_for_a_moment_has_its_speeds_when_it_is_back(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = comfyui.framework.context.host
    names = host.registry.names()
    with monkeypatch.context() as hidden:
        hidden.setattr(type(host.registry), "names", lambda registry: tuple(n for n in names if n != "npu:2"))
        assert ("cpu", "npu:2") not in host.profile.links
    assert ("cpu", "npu:2") in host.profile.links


def test_with_the_gpu_only_flag_each_part_of_a_checkpoint_waits_where_it_computes(
    comfyui: ComfyUI, set_flags: Any
) -> None:
    set_flags(gpu_only=True)
    devices = {"unet_device": "npu:0", "clip_device": "npu:1", "vae_device": "npu:2"}
    _, clip, vae = comfyui.run("CheckpointLoaderAdvancedMultiGPU", ckpt_name="flux.safetensors", **devices)
    assert str(clip.patcher.offload_device) == "npu:1"
    assert str(vae.patcher.offload_device) == "npu:2"


def test_with_the_gpu_only_flag_a_vae_hands_its_picture_on_on_comfyuis_own_device(
    comfyui: ComfyUI, set_flags: Any
) -> None:
    set_flags(gpu_only=True)
    (vae,) = comfyui.run("VAELoaderMultiGPU", vae_name="vae.safetensors", device="npu:1")
    latent = vae.encode(torch.rand(1, 32, 32, 3))
    assert str(latent.device) == str(vae.decode(latent).device) == "npu:0"
