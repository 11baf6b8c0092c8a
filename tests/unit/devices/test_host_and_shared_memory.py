"""The cpu, whose memory a control group may limit, and Apple's GPU, which shares it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from multigpu.multigpu_core.devices import CpuBackend, DeviceRegistry, MemoryReading, MpsBackend
from multigpu.multigpu_core.devices.backends import host_memory
from multigpu.multigpu_core.devices.backends.host_memory import read_host_memory

MIB = 1 << 20
GIB = 1 << 30


def test_the_cpu_is_a_device_with_the_memory_of_this_machine() -> None:
    registry = DeviceRegistry([CpuBackend()])

    (cpu,) = registry.devices()

    assert (cpu.name, cpu.type, cpu.index) == ("cpu", "cpu", None)
    assert 0 < cpu.free_bytes <= cpu.total_bytes <= psutil.virtual_memory().total
    assert not cpu.has_streams and not cpu.can_pin_host_memory
    assert registry.torch_device("cpu") == torch.device("cpu")
    with registry.device_scope("cpu"):
        registry.synchronize("cpu")
        registry.empty_cache("cpu")


def test_memory_is_read_from_the_system_where_psutil_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_memory, "psutil", None)

    reading = read_host_memory(tmp_path, tmp_path / "none")

    assert reading.total_bytes == pytest.approx(psutil.virtual_memory().total, rel=0.01)
    assert 0 < reading.free_bytes <= reading.total_bytes


def test_a_container_limit_counts_where_it_is_below_the_machine(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("0::/pod/worker\n")
    _write_group(tmp_path / "pod", {"memory.max": 512 * MIB, "memory.current": 300 * MIB})
    _write_group(tmp_path / "pod" / "worker", {"memory.max": "max", "memory.current": 10 * MIB})

    assert read_host_memory(tmp_path, membership) == MemoryReading(212 * MIB, 512 * MIB)


def test_file_pages_that_a_container_has_read_do_not_count_as_used(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("0::/\n")
    _write_group(tmp_path, {"memory.max": 512 * MIB, "memory.current": 500 * MIB})
    (tmp_path / "memory.stat").write_text(f"anon {50 * MIB}\ninactive_file {400 * MIB}\nactive_file {50 * MIB}\n")

    assert read_host_memory(tmp_path, membership).free_bytes == 462 * MIB


def test_an_old_style_container_limit_is_found_at_the_root_of_the_container(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("5:cpuset:/\n4:cpu,memory:/docker/0123abc\n0::/\n")
    _write_group(tmp_path / "memory", {"memory.limit_in_bytes": 256 * MIB, "memory.usage_in_bytes": 100 * MIB})

    assert read_host_memory(tmp_path, membership) == MemoryReading(156 * MIB, 256 * MIB)


def test_a_limit_above_the_machine_changes_nothing(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("4:memory:/\n")
    _write_group(tmp_path / "memory", {"memory.limit_in_bytes": 9223372036854771712, "memory.usage_in_bytes": 0})

    assert read_host_memory(tmp_path, membership).total_bytes == psutil.virtual_memory().total


def test_an_apple_gpu_is_one_device_called_mps() -> None:
    metal = _Metal()
    registry = DeviceRegistry([_mps(metal)])

    (mps,) = registry.devices()

    assert (mps.name, mps.type, mps.index) == ("mps", "mps", None)
    assert mps.total_bytes == 12 * GIB
    assert mps.free_bytes == 8 * GIB
    assert not mps.has_streams and not mps.can_pin_host_memory
    assert registry.torch_device("MPS") == torch.device("mps")
    assert registry.resolve("mps:0") == "mps"
    assert registry.name_of(torch.device("mps:0")) == "mps"
    registry.empty_cache("mps")
    registry.synchronize("mps")
    assert metal.calls == ["empty_cache", "synchronize"]


def test_an_apple_gpu_has_no_more_free_than_the_host_and_its_own_cache() -> None:
    registry = DeviceRegistry([_mps(_Metal(), host_free=2 * GIB)])

    assert registry.free_bytes("mps") == 3 * GIB


def test_there_is_no_apple_gpu_on_another_machine() -> None:
    assert DeviceRegistry([MpsBackend(_Metal(), available=lambda: False)]).names() == ()


class _Metal(SimpleNamespace):
    """torch.mps on a machine whose GPU may use 12 GiB, with 4 GiB in use and 1 GiB cached."""

    def __init__(self) -> None:
        super().__init__(calls=[])

    def recommended_max_memory(self) -> int:
        return 12 * GIB

    def current_allocated_memory(self) -> int:
        return 4 * GIB

    def driver_allocated_memory(self) -> int:
        return 5 * GIB

    def empty_cache(self) -> None:
        self.calls.append("empty_cache")

    def synchronize(self) -> None:
        self.calls.append("synchronize")


def _mps(metal: _Metal, host_free: int = 14 * GIB) -> MpsBackend:
    return MpsBackend(metal, available=lambda: True, read_host=lambda: MemoryReading(host_free, 16 * GIB))


def _write_group(group: Path, files: dict[str, int | str]) -> None:
    group.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (group / name).write_text(f"{value}\n")
