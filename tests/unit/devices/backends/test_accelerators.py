"""Devices behind a module shaped like torch.cuda: CUDA, ROCm, CoreX, XPU and PrivateUse1."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from multigpu.multigpu_core.devices import (
    AcceleratorBackend,
    CpuBackend,
    CudaBackend,
    DeviceActivity,
    DeviceError,
    DeviceRegistry,
    PrivateUse1Backend,
    VendorPackage,
)

GIB = 1 << 30


def test_every_cuda_card_is_listed_with_what_its_driver_says(fake_module_with_streams: Any) -> None:
    registry = DeviceRegistry([CudaBackend(fake_module_with_streams(count=2))])

    first, second = registry.devices()

    assert (first.name, first.type, first.index, first.marketing_name) == ("cuda:0", "cuda", 0, "Fake Card 0")
    assert (second.name, second.index) == ("cuda:1", 1)
    assert first.total_bytes == 8 * GIB
    assert first.has_streams and first.can_pin_host_memory
    assert registry.torch_device("cuda:1") == torch.device("cuda", 1)


def test_memory_that_the_caching_allocator_holds_but_does_not_use_is_free(fake_module: Any) -> None:
    module = fake_module(driver_free=4 * GIB, reserved=3 * GIB, active=1 * GIB)

    assert DeviceRegistry([CudaBackend(module)]).free_bytes("cuda:0") == 6 * GIB


def test_free_memory_is_fresh_at_each_question(fake_module: Any) -> None:
    module = fake_module()
    registry = DeviceRegistry([CudaBackend(module)])
    before = registry.info("cuda:0").free_bytes

    module.driver_free -= GIB

    assert registry.info("cuda:0").free_bytes == before - GIB


def test_listing_names_and_asking_for_a_size_touches_no_card(fake_module: Any) -> None:
    module = fake_module()
    registry = DeviceRegistry([CudaBackend(module)])

    assert registry.names() == ("cuda:0", "cuda:1")
    assert registry.resolve("cuda") == "cuda:0"
    assert registry.total_bytes("cuda:1") == 8 * GIB
    assert module.touched == []


def test_asking_about_one_card_leaves_the_other_alone(fake_module: Any) -> None:
    module = fake_module()

    DeviceRegistry([CudaBackend(module)]).info("cuda:1")

    assert module.touched == ["mem_get_info 1"]


def test_a_card_that_is_not_in_use_yet_can_be_listed_without_waking_it(
    fake_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = fake_module(driver_free=4 * GIB, reserved=0, active=0)
    monkeypatch.setattr(torch._C, "_cuda_hasPrimaryContext", lambda index: index == 0, raising=False)

    used, unused = DeviceRegistry([CudaBackend(module)]).survey(wake=False).devices

    assert module.touched == ["mem_get_info 0"]
    assert (used.free_bytes, unused.free_bytes, unused.total_bytes) == (4 * GIB, 8 * GIB, 8 * GIB)


def test_caches_are_emptied_and_waited_for_on_the_card_that_was_named(fake_module: Any) -> None:
    module = fake_module()
    registry = DeviceRegistry([CudaBackend(module)])

    registry.empty_cache("cuda:1")
    registry.synchronize("cuda:1")

    assert module.touched == ["empty_cache on 1", "synchronize 1"]
    assert module.current == 0


def test_a_card_that_was_never_used_is_not_woken_to_empty_its_cache(fake_module: Any) -> None:
    module = fake_module()
    module.is_initialized = lambda: False
    registry = DeviceRegistry([CudaBackend(module)])

    registry.empty_cache("cuda:1")
    registry.synchronize("cuda:1")

    assert module.touched == []


def test_a_device_scope_makes_the_card_current_and_gives_the_old_one_back(fake_module: Any) -> None:
    module = fake_module()
    registry = DeviceRegistry([CudaBackend(module)])

    with registry.device_scope("cuda:1"):
        assert registry.name_of(torch.device("cuda")) == "cuda:1"

    assert registry.name_of(torch.device("cuda")) == "cuda:0"
    assert registry.name_of(torch.device("cuda:1")) == "cuda:1"


def test_a_device_scope_works_on_a_backend_that_only_knows_set_device(
    fake_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = fake_module()
    narrow = _Narrow(module, "is_available", "device_count", "current_device")
    monkeypatch.setattr(narrow, "set_device", lambda index: setattr(module, "current", index), raising=False)
    registry = DeviceRegistry([AcceleratorBackend("npu", module=narrow)])

    with pytest.raises(RuntimeError, match="in the middle"), registry.device_scope("npu:1"):
        assert module.current == 1
        raise RuntimeError("in the middle")

    assert module.current == 0


def test_a_rocm_card_is_called_cuda_and_may_be_asked_for_as_rocm(
    fake_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.4.0")
    module = fake_module()
    module.get_device_name = lambda index: "AMD Radeon RX 7900 XTX"
    environ = {"HIP_VISIBLE_DEVICES": "0,1"}
    registry = DeviceRegistry([CudaBackend(module)], environ=environ)

    assert registry.names() == ("cuda:0", "cuda:1")
    assert registry.info("cuda:0").marketing_name == "AMD Radeon RX 7900 XTX"
    assert registry.resolve("rocm:1") == "cuda:1"
    with pytest.raises(DeviceError, match="HIP_VISIBLE_DEVICES='0,1'"):
        registry.resolve("cuda:2")


def test_a_rocm_card_without_a_marketing_name_goes_by_its_own(fake_module: Any) -> None:
    module = fake_module()
    module.get_device_name = lambda index: ""

    assert DeviceRegistry([CudaBackend(module)]).info("cuda:1").marketing_name == "cuda:1"


def test_a_corex_card_is_called_cuda_and_opens_workflows_that_say_corex(
    fake_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = DeviceRegistry([CudaBackend(fake_module())])
    with pytest.raises(DeviceError):
        registry.resolve("corex:1")

    monkeypatch.setattr(torch, "corex", True, raising=False)

    assert registry.resolve("corex:1") == "cuda:1"
    assert registry.torch_device("corex:1") == torch.device("cuda", 1)


def test_an_intel_card_that_cannot_say_what_is_free_counts_what_this_process_uses(
    fake_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = fake_module(reserved=3 * GIB, active=1 * GIB)

    def unsupported(index: int) -> tuple[int, int]:
        raise RuntimeError("The device does not support querying its available free memory")

    module.mem_get_info = unsupported
    monkeypatch.setattr(torch, "xpu", module)

    device = DeviceRegistry([AcceleratorBackend("xpu")]).info("xpu:0")

    assert (device.name, device.total_bytes, device.free_bytes) == ("xpu:0", 8 * GIB, 7 * GIB)


def test_a_torch_without_the_family_lists_none_of_it() -> None:
    assert DeviceRegistry([AcceleratorBackend("xpu_of_the_future")]).names() == ()


@pytest.mark.parametrize(("family", "variable"), [("npu", "ASCEND_RT_VISIBLE_DEVICES"), ("mlu", "MLU_VISIBLE_DEVICES")])
def test_the_backend_that_registers_as_privateuse1_is_listed_under_its_name(
    family: str, variable: str, fake_module: Any, fake_module_with_streams: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = PrivateUse1Backend({"npu": ("ASCEND_RT_VISIBLE_DEVICES",), "mlu": ("MLU_VISIBLE_DEVICES",)})
    registry = DeviceRegistry([backend], environ={variable: "3"})
    assert registry.names() == ()

    _register(family, fake_module_with_streams(count=1), monkeypatch)

    (device,) = registry.devices()
    assert (device.name, device.type, device.free_bytes) == (f"{family}:0", family, 6 * GIB)
    assert device.has_streams and device.can_pin_host_memory
    with pytest.raises(DeviceError, match=f"{variable}='3'"):
        registry.resolve(f"{family}:1")


def test_a_privateuse1_backend_that_nobody_here_has_heard_of_is_listed_too(
    fake_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("is_available", "device_count", "current_device", "mem_get_info", "get_device_name")
    _register("quantum", _Narrow(fake_module(), *names), monkeypatch)

    first, second = DeviceRegistry([PrivateUse1Backend()]).devices()

    assert (first.name, second.name) == ("quantum:0", "quantum:1")
    assert (first.total_bytes, first.free_bytes) == (8 * GIB, 4 * GIB)
    assert not first.has_streams and not first.can_pin_host_memory


def test_a_backend_registered_with_torch_itself_gives_torch_devices_of_its_name() -> None:
    script = """
import torch
from types import SimpleNamespace
from multigpu.multigpu_core.devices import default_registry
registry = default_registry()
assert "cpu" in registry.names()
torch.utils.rename_privateuse1_backend("quantum")
torch._register_device_module("quantum", SimpleNamespace(is_available=lambda: True, device_count=lambda: 2))
assert registry.names()[-2:] == ("quantum:0", "quantum:1"), registry.names()
device = registry.torch_device("quantum:1")
assert (device.type, device.index) == ("quantum", 1)
assert registry.name_of(device) == "quantum:1"
"""
    subprocess.run([sys.executable, "-c", script], check=True, env=_environment_of_this_process())


def test_a_vendor_package_that_does_not_import_is_a_problem_and_takes_nothing_else_along(fake_module: Any) -> None:
    broken = VendorPackage("torch_npu", error=OSError("libascendcl.so: cannot open shared object file"))
    registry = DeviceRegistry([CudaBackend(fake_module(count=1)), PrivateUse1Backend(packages=(broken,))])

    assert registry.names() == ("cuda:0",)
    (problem,) = registry.problems()
    assert "torch_npu is installed but cannot be imported" in str(problem.error)
    assert "libascendcl.so" in str(problem.error)


class _Narrow:
    """Only the named attributes of a module."""

    def __init__(self, module: Any, *names: str) -> None:
        for name in names:
            setattr(self, name, getattr(module, name))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def _register(name: str, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._C, "_get_privateuse1_backend_name", lambda: name)
    monkeypatch.setattr(torch, name, module, raising=False)


def _environment_of_this_process() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def test_a_driver_that_reports_how_busy_and_warm_a_card_is_is_asked_without_waking_the_card(fake_module: Any) -> None:
    module = fake_module()
    module.utilization = lambda index: 30 + index
    module.temperature = lambda index: 60 + index
    registry = DeviceRegistry([CudaBackend(module), CpuBackend()])
    assert registry.activity("cuda:1") == DeviceActivity(utilization_percent=31, temperature_celsius=61)
    assert registry.activity("cpu") == DeviceActivity()
    assert module.touched == []


def test_what_a_driver_does_not_report_is_unknown_and_harms_nothing(fake_module: Any) -> None:
    def missing(index: int) -> int:
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    module = fake_module()
    module.utilization = missing
    assert DeviceRegistry([CudaBackend(module)]).activity("cuda:0") == DeviceActivity()
