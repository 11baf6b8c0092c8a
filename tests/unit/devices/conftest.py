"""Fakes of torch's device modules: the border at which the device backends are tested."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch

GIB = 1 << 30


@dataclass
class FakeTorchModule:
    """What ``torch.cuda`` and its kin offer, over `count` cards of 8 GiB; `touched` records what creates a context."""

    count: int = 2
    driver_free: int = 4 * GIB
    reserved: int = 3 * GIB
    active: int = 1 * GIB
    current: int = 0
    touched: list[str] = field(default_factory=list)

    def is_available(self) -> bool:
        return self.count > 0

    def device_count(self) -> int:
        return self.count

    def current_device(self) -> int:
        return self.current

    def mem_get_info(self, index: int) -> tuple[int, int]:
        self.touched.append(f"mem_get_info {index}")
        return self.driver_free, 8 * GIB

    def memory_stats(self, index: int) -> dict[str, int]:
        return {"reserved_bytes.all.current": self.reserved, "active_bytes.all.current": self.active}

    def get_device_properties(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(total_memory=8 * GIB)

    def get_device_name(self, index: int) -> str:
        return f"Fake Card {index}"

    def empty_cache(self) -> None:
        self.touched.append(f"empty_cache on {self.current}")

    def synchronize(self, index: int) -> None:
        self.touched.append(f"synchronize {index}")

    @contextmanager
    def device(self, index: int) -> Iterator[None]:
        previous, self.current = self.current, index
        try:
            yield
        finally:
            self.current = previous


class FakeTorchModuleWithStreams(FakeTorchModule):
    class Stream: ...


@pytest.fixture
def fake_module() -> Callable[..., FakeTorchModule]:
    """Makes a device module without streams; takes the fields of `FakeTorchModule`."""
    return FakeTorchModule


@pytest.fixture
def fake_module_with_streams() -> Callable[..., FakeTorchModule]:
    return FakeTorchModuleWithStreams


@pytest.fixture(autouse=True)
def no_privateuse1_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that bring their own backends find none, whatever other tests have registered in this process."""
    if "simulated_machine" in request.fixturenames:
        return
    monkeypatch.setattr(torch._C, "_get_privateuse1_backend_name", lambda: "privateuseone")
