"""What users write, what they are told when it is wrong, and what a failing driver does to the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from multigpu.multigpu_core.devices import (
    AcceleratorBackend,
    CpuBackend,
    CudaBackend,
    DeviceError,
    DeviceRegistry,
    default_registry,
    import_vendor_package,
)


@pytest.fixture
def backends(fake_module: Any) -> list[Any]:
    """A cpu, two CUDA cards and one Intel card."""
    return [CpuBackend(), CudaBackend(fake_module(count=2)), AcceleratorBackend("xpu", module=fake_module(count=1))]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("cuda:1", "cuda:1"),
        ("CUDA:1", "cuda:1"),
        ("cuda", "cuda:0"),
        ("cuda:01", "cuda:1"),
        (" cuda : 1 ", "cuda:1"),
        (" cpu ", "cpu"),
        ("cpu:0", "cpu"),
        ("gpu:1", "cuda:1"),
        ("GPU:2", "xpu:0"),
        ("gpu", "cuda:0"),
    ],
)
def test_a_device_is_found_however_it_is_written(written: str, name: str, backends: list[Any]) -> None:
    assert DeviceRegistry(backends).resolve(written) == name


@pytest.mark.parametrize(
    ("written", "nearest"),
    [
        ("cuda:7", "cuda:1"),
        ("cuda1", "cuda:1"),
        ("cude:0", "cuda:0"),
        ("cuda:-1", "cuda:1"),
        ("gpu:9", "xpu:0"),
        ("cpu:1", "cpu"),
        ("warp drive", None),
        ("", None),
        ("npu:0", "xpu:0"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_and_all_there_are(
    written: str, nearest: str | None, backends: list[Any]
) -> None:
    with pytest.raises(DeviceError) as caught:
        DeviceRegistry(backends).resolve(written)

    assert caught.value.text == written
    assert caught.value.nearest == nearest
    assert caught.value.available == ("cpu", "cuda:0", "cuda:1", "xpu:0")
    message = str(caught.value)
    assert repr(written) in message and "cpu, cuda:0, cuda:1, xpu:0" in message
    assert ("did you mean" in message) is (nearest is not None)


def test_a_card_hidden_by_an_environment_variable_comes_with_the_variable_and_the_flag(backends: list[Any]) -> None:
    registry = DeviceRegistry(
        backends, hints={"cuda": "Start ComfyUI with --cuda-device all."}, environ={"CUDA_VISIBLE_DEVICES": "0,1"}
    )

    with pytest.raises(DeviceError) as caught:
        registry.resolve("cuda:2")

    hidden, flag = caught.value.reasons
    assert "CUDA_VISIBLE_DEVICES='0,1'" in hidden and "unset it" in hidden
    assert flag == "Start ComfyUI with --cuda-device all."
    assert hidden in str(caught.value) and flag in str(caught.value)


def test_a_variable_of_another_family_is_not_blamed(backends: list[Any]) -> None:
    registry = DeviceRegistry(backends, hints={"cuda": "hint"}, environ={"CUDA_VISIBLE_DEVICES": "0"})

    with pytest.raises(DeviceError) as caught:
        registry.resolve("xpu:1")

    assert caught.value.reasons == ()


def test_comfyui_started_for_the_cpu_alone_sees_nothing_else_and_says_why(backends: list[Any]) -> None:
    everything = DeviceRegistry(backends)

    view = everything.restricted(("cpu",), "ComfyUI was started with --cpu: leave it out to use this device.")

    assert view.names() == ("cpu",)
    assert [device.name for device in view.devices()] == ["cpu"]
    for written in ("cuda:0", "gpu:0"):
        with pytest.raises(DeviceError, match="started with --cpu"):
            view.resolve(written)
    with pytest.raises(DeviceError):
        view.free_bytes("cuda:0")
    assert everything.names() == ("cpu", "cuda:0", "cuda:1", "xpu:0")


def test_restrictions_add_up(backends: list[Any]) -> None:
    view = DeviceRegistry(backends).restricted(("cpu", "cuda:1"), "first").restricted(("cuda:0", "cuda:1"), "second")

    assert view.names() == ("cuda:1",)
    with pytest.raises(DeviceError) as caught:
        view.resolve("xpu:0")
    assert caught.value.reasons == ("first", "second")


def test_a_driver_that_fails_to_count_is_reported_and_the_others_stay(backends: list[Any], fake_module: Any) -> None:
    broken = fake_module()
    broken.device_count = _raise
    registry = DeviceRegistry([CpuBackend(), CudaBackend(broken)])

    survey = registry.survey()

    assert registry.names() == ("cpu",)
    assert [device.name for device in survey.devices] == ["cpu"]
    assert [(problem.subject, str(problem.error)) for problem in survey.problems] == [("cuda", "driver too old")]
    with pytest.raises(DeviceError, match="Looking for cuda devices failed: driver too old"):
        registry.resolve("cuda:0")


def test_a_card_that_fails_to_describe_itself_is_reported_and_the_others_stay(fake_module: Any) -> None:
    module = fake_module()
    module.get_device_name = lambda index: _raise() if index == 0 else "Fine Card"
    registry = DeviceRegistry([CudaBackend(module)])

    survey = registry.survey()

    assert [device.name for device in survey.devices] == ["cuda:1"]
    assert [problem.subject for problem in survey.problems] == ["cuda:0"]
    assert [problem.subject for problem in registry.problems()] == ["cuda:0"]


def test_one_family_is_not_asked_about_another(fake_module: Any) -> None:
    broken = fake_module()
    broken.is_available = _raise
    registry = DeviceRegistry([CpuBackend(), CudaBackend(fake_module()), AcceleratorBackend("xpu", module=broken)])

    assert registry.info("cuda:1").name == "cuda:1"


def test_a_device_that_holds_no_data_has_no_name(backends: list[Any]) -> None:
    with pytest.raises(DeviceError, match="meta"):
        DeviceRegistry(backends).name_of(torch.device("meta"))


def test_the_registry_of_this_machine_round_trips_every_name_it_lists() -> None:
    registry = default_registry()

    assert registry.names()[0] == "cpu"
    for name in registry.names():
        assert registry.resolve(name) == name
        assert registry.name_of(registry.torch_device(name)) == name


def test_a_vendor_package_that_crashes_on_import_is_remembered_and_not_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vendor_that_crashes.py").write_text("raise RuntimeError('no driver')\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    package = import_vendor_package("vendor_that_crashes")

    assert package.module is None
    with pytest.raises(ImportError, match="vendor_that_crashes is installed but cannot be imported: no driver"):
        package.raise_if_broken()
    import_vendor_package("vendor_that_is_not_there").raise_if_broken()


def _raise(*_: object) -> Any:
    raise RuntimeError("driver too old")
