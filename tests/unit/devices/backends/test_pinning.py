"""Host memory that CUDA's runtime page-locks: for how long, on which card, and what a refusal leaves behind."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from multigpu.multigpu_core.devices import AcceleratorBackend, CudaBackend, DeviceRegistry, PinError

SIZE = 64 * 1024**2
REFUSED = 2
"""cudaErrorMemoryAllocation."""


class Runtime:
    """``torch.cuda.cudart()``: remembers the last error, as CUDA's does, until somebody looks for one."""

    def __init__(self, register: int = 0, unregister: int = 0) -> None:
        self.answers = {"register": register, "unregister": unregister}
        self.last_error = 0
        self.locked: dict[int, int] = {}
        self.was_mapped: list[bool] = []

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802
        assert flags == 1, "for every card"
        if not self.answers["register"]:
            self.locked[address] = size
        return self._remembered("register")

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        self.was_mapped.append(is_mapped(address))
        del self.locked[address]
        return self._remembered("unregister")

    def look_for_errors(self) -> None:
        """What torch does after each kernel."""
        error, self.last_error = self.last_error, 0
        if error:
            raise RuntimeError(f"CUDA error: {error}")

    def _remembered(self, call: str) -> int:
        self.last_error = self.answers[call] or self.last_error
        return self.answers[call]


def is_mapped(address: int) -> bool:
    ranges = (line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines())
    return any(int(begin, 16) <= address < int(end, 16) for begin, end in ranges)


@pytest.fixture
def registry_of(
    fake_module: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Runtime], tuple[DeviceRegistry, list[int]]]:
    """A registry of two cards over a runtime, and the cards that were current when the runtime was asked for."""

    def make(runtime: Runtime) -> tuple[DeviceRegistry, list[int]]:
        module, current = fake_module(), []

        def cudart() -> Runtime:
            current.append(module.current)
            return runtime

        def ones(*size: int, device: torch.device) -> torch.Tensor:
            assert device == torch.device("cuda", module.current)
            runtime.look_for_errors()
            return torch.zeros(*size)

        module.cudart = cudart
        monkeypatch.setattr("multigpu.multigpu_core.devices.backends.accelerator.torch.ones", ones)
        return DeviceRegistry([CudaBackend(module)]), current

    return make


def test_a_refusal_is_told_once_and_not_again_by_the_next_kernel(registry_of: Any) -> None:
    runtime = Runtime(register=REFUSED)
    registry, _ = registry_of(runtime)
    with pytest.raises(PinError, match="refused to pin 100 bytes") as refused:
        registry.empty_pinned(100, "cuda:0")
    assert refused.value.code == REFUSED
    runtime.look_for_errors()


def test_memory_that_cannot_be_unlocked_breaks_no_kernel_either(registry_of: Any) -> None:
    runtime = Runtime(unregister=REFUSED)
    registry, _ = registry_of(runtime)
    registry.empty_pinned(100, "cuda:0")
    gc.collect()
    assert not runtime.locked
    runtime.look_for_errors()


def test_memory_is_locked_for_a_card_without_waking_another(registry_of: Any) -> None:
    registry, current = registry_of(Runtime())
    registry.empty_pinned(100, "cuda:1")
    assert current == [1]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux what is mapped")
def test_memory_is_locked_as_long_as_a_weight_uses_it_and_unlocked_before_it_is_freed(registry_of: Any) -> None:
    runtime = Runtime()
    registry, _ = registry_of(runtime)
    memory = registry.empty_pinned(SIZE, "cuda:0")
    assert runtime.locked == {memory.data_ptr(): SIZE} and memory.untyped_storage().nbytes() == SIZE
    weight = nn.Parameter(memory[:4096].view(torch.float32), requires_grad=False)
    del memory
    gc.collect()
    assert runtime.locked
    address = weight.data_ptr()
    del weight
    assert not runtime.locked and runtime.was_mapped == [True]
    assert not is_mapped(address)


def test_memory_is_unpinned_and_pinned_again_where_it_is(registry_of: Any) -> None:
    runtime = Runtime()
    registry, _ = registry_of(runtime)
    memory = registry.empty_pinned(100, "cuda:0")
    address = memory.data_ptr()
    memory.fill_(7)
    assert registry.unlock_pages(memory[:10], "cuda:0") and not runtime.locked
    assert registry.unlock_pages(memory, "cuda:0"), "once more does nothing"
    registry.lock_pages(memory, "cuda:0")
    registry.lock_pages(memory, "cuda:0")
    assert runtime.locked == {address: 100} and memory.sum() == 700
    registry.unlock_pages(memory, "cuda:0")
    del memory
    gc.collect()
    assert len(runtime.was_mapped) == 2, "what is ordinary memory is not unpinned when it is freed"


def test_pinning_again_can_be_refused(registry_of: Any) -> None:
    runtime = Runtime()
    registry, _ = registry_of(runtime)
    memory = registry.empty_pinned(100, "cuda:0")
    registry.unlock_pages(memory, "cuda:0")
    runtime.answers["register"] = REFUSED
    with pytest.raises(PinError):
        registry.lock_pages(memory, "cuda:0")
    runtime.look_for_errors()


def test_families_that_cannot_unpin_in_place_say_so(fake_module_with_streams: Any) -> None:
    registry = DeviceRegistry([AcceleratorBackend("xpu", module=fake_module_with_streams())])
    memory = torch.empty(4, dtype=torch.uint8)
    assert not registry.unlock_pages(memory, "xpu:0")
    with pytest.raises(NotImplementedError):
        registry.lock_pages(memory, "xpu:0")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux what is mapped")
def test_nothing_is_unpinned_while_a_graph_is_captured(registry_of: Any) -> None:
    runtime = Runtime()
    registry, _ = registry_of(runtime)
    module = registry._slot("cuda:0").backend.module
    module.is_capturing = True
    module.is_current_stream_capturing = lambda: module.is_capturing
    module.is_initialized = lambda: True
    memory = registry.empty_pinned(SIZE, "cuda:0")
    address = memory.data_ptr()
    del memory
    gc.collect()
    assert runtime.locked == {address: SIZE} and is_mapped(address)
    module.is_capturing = False
    registry.empty_pinned(100, "cuda:0")
    gc.collect()
    assert not runtime.locked and runtime.was_mapped[0]
    assert not is_mapped(address)
