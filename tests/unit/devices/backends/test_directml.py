"""DirectML adapters, faked as torch_directml presents them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from multigpu.multigpu_core.devices import (
    CpuBackend,
    DeviceRegistry,
    DirectMLBackend,
    PrivateUse1Backend,
    VendorPackage,
)

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True)
class AdapterDevice:
    """The device object of an adapter; no torch.device, since torch may have given the type another name."""

    index: int | None
    type: str = "privateuseone"


class FakeDirectML:
    """torch_directml with two adapters, of which the second is the default."""

    def device_count(self) -> int:
        return 2

    def device(self, index: int) -> AdapterDevice:
        return AdapterDevice(index)

    def device_name(self, index: int) -> str:
        return ("Radeon RX 580\0", "Arc A770\0")[index]

    def default_device(self) -> int:
        return 1

    def gpu_memory(self, index: int, mb_per_tile: int) -> list[float]:
        return [1.0, 1.0, 0.5]


def test_adapters_are_listed_and_come_as_torch_directml_hands_them_out() -> None:
    registry = _registry()

    assert registry.names() == ("directml:0", "directml:1")
    assert registry.torch_device("directml:1") == cast(torch.device, AdapterDevice(1))
    assert registry.resolve("dml:1") == "directml:1"
    assert registry.resolve("privateuseone:1") == "directml:1"


def test_a_tensor_on_an_adapter_is_known_by_the_name_that_users_write() -> None:
    registry = _registry()

    assert registry.name_of(cast(torch.device, AdapterDevice(0))) == "directml:0"
    assert registry.name_of(cast(torch.device, AdapterDevice(None))) == "directml:1"


def test_an_adapter_has_the_memory_that_windows_knows_less_what_is_in_use() -> None:
    device = _registry(adapter_bytes={"Radeon RX 580": 8 * GIB}.get).info("directml:0")

    assert (device.type, device.index, device.marketing_name) == ("directml", 0, "Radeon RX 580")
    assert device.total_bytes == 8 * GIB
    assert device.free_bytes == 8 * GIB - int(2.5 * MIB)
    assert not device.has_streams and not device.can_pin_host_memory


def test_an_adapter_of_unknown_size_has_what_comfyui_assumes() -> None:
    assert _registry(adapter_bytes=lambda name: None).total_bytes("directml:0") == GIB


def test_the_size_is_read_from_what_the_display_driver_wrote_into_the_windows_registry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "winreg", _fake_winreg())

    assert (
        DeviceRegistry([DirectMLBackend(VendorPackage("torch_directml", FakeDirectML()))]).total_bytes("directml:1")
        == 16 * GIB
    )


def test_without_torch_directml_there_are_no_adapters() -> None:
    assert DeviceRegistry([DirectMLBackend(VendorPackage("torch_directml"))]).survey().problems == ()
    assert DeviceRegistry([DirectMLBackend(VendorPackage("torch_directml"))]).names() == ()


def test_a_broken_torch_directml_is_reported_and_the_cpu_stays() -> None:
    package = VendorPackage("torch_directml", error=ImportError("DLL load failed"))
    registry = DeviceRegistry([CpuBackend(), DirectMLBackend(package)])

    survey = registry.survey()

    assert [device.name for device in survey.devices] == ["cpu"]
    assert [(p.subject, "DLL load failed" in str(p.error)) for p in survey.problems] == [("directml", True)]


def test_comfyui_started_with_directml_1_sees_that_adapter_and_the_cpu_alone() -> None:
    backends = [CpuBackend(), DirectMLBackend(VendorPackage("torch_directml", FakeDirectML()))]
    everything = DeviceRegistry(backends)

    view = everything.restricted(("cpu", "directml:1"), "ComfyUI was started with --directml 1.")

    assert view.names() == ("cpu", "directml:1")
    assert view.resolve("gpu:0") == "directml:1"
    with pytest.raises(ValueError, match="--directml 1"):
        view.resolve("directml:0")


def _registry(adapter_bytes: Callable[[str], int | None] | None = None) -> DeviceRegistry:
    package = VendorPackage("torch_directml", FakeDirectML())
    return DeviceRegistry([DirectMLBackend(package, adapter_bytes), PrivateUse1Backend()])


def _fake_winreg() -> SimpleNamespace:
    adapters: dict[str, dict[str, object]] = {
        "0000": {"DriverDesc": "Radeon RX 580", "HardwareInformation.qwMemorySize": 8 * GIB},
        "0001": {"DriverDesc": "Remote Display"},
        "0002": {"DriverDesc": "Arc A770", "HardwareInformation.qwMemorySize": 16 * GIB},
    }

    @contextmanager
    def open_key(key: object, name: str) -> Iterator[object]:
        yield adapters.get(name, adapters)

    def value(key: dict[str, object], name: str) -> tuple[object, int]:
        if name not in key:
            raise FileNotFoundError(name)
        return key[name], 0

    return SimpleNamespace(
        HKEY_LOCAL_MACHINE=None,
        OpenKey=open_key,
        EnumKey=lambda key, position: list(key)[position],
        QueryInfoKey=lambda key: (len(key), 0, 0),
        QueryValueEx=value,
    )
