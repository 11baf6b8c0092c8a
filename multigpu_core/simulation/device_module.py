"""The module that PyTorch shows as `torch.<backend>` for simulated devices, with the calls that hosts make."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from multigpu.multigpu_core.simulation.memory.ledger import SimulatedDevice
from multigpu.multigpu_core.simulation.time.streams import SimulatedEvent, SimulatedStream

if TYPE_CHECKING:
    from .machine import SimulatedMachine

DeviceLike = torch.device | int | str | None


class DeviceProperties:
    """What `get_device_properties` tells: the marketing name and the memory in bytes."""

    def __init__(self, device: SimulatedDevice) -> None:
        self.name = device.marketing_name
        self.total_memory = device.total_bytes


class SimulatedDeviceModule(ModuleType):
    """The subset of `torch.cuda` that ComfyUI, accelerate and our device registry use, told by a `SimulatedMachine`."""

    def __init__(self, backend: str, machine: SimulatedMachine) -> None:
        super().__init__(f"torch.{backend}", "Simulated accelerators.")
        self.simulated_machine = machine
        self._current = threading.local()

    def is_available(self) -> bool:
        return self.device_count() > 0

    def is_initialized(self) -> bool:
        return True

    def init(self) -> None:
        """Nothing to do: simulated devices are ready when they exist."""

    def device_count(self) -> int:
        return len(self.simulated_machine.devices)

    def current_device(self) -> int:
        return int(getattr(self._current, "index", 0))

    def set_device(self, device: DeviceLike) -> None:
        self._current.index = self._find(device).torch_device.index

    def reset_current_device(self) -> None:
        """Make the first device the current one in this thread."""
        self._current.index = 0

    @contextmanager
    def device(self, device: DeviceLike) -> Iterator[None]:
        """Make `device` the current one within a `with` block."""
        previous = self.current_device()
        self.set_device(device)
        try:
            yield
        finally:
            self._current.index = previous

    def get_device_name(self, device: DeviceLike = None) -> str:
        return self._find(device).marketing_name

    def get_device_properties(self, device: DeviceLike = None) -> DeviceProperties:
        return DeviceProperties(self._find(device))

    def mem_get_info(self, device: DeviceLike = None) -> tuple[int, int]:
        """Free and total bytes of the device."""
        found = self._find(device)
        return found.free_bytes, found.total_bytes

    def memory_stats(self, device: DeviceLike = None) -> dict[str, int]:
        """Bytes now and at the peak; nothing is cached, so what is reserved is what is alive."""
        found = self._find(device)
        kinds = ("reserved_bytes", "active_bytes", "allocated_bytes")
        current = {f"{kind}.all.current": found.live_bytes for kind in kinds}
        return current | {f"{kind}.all.peak": found.peak_bytes for kind in kinds}

    def memory_allocated(self, device: DeviceLike = None) -> int:
        return self._find(device).live_bytes

    def max_memory_allocated(self, device: DeviceLike = None) -> int:
        return self._find(device).peak_bytes

    memory_reserved = memory_allocated
    max_memory_reserved = max_memory_allocated

    def reset_peak_memory_stats(self, device: DeviceLike = None) -> None:
        self._find(device).reset_peak()

    def synchronize(self, device: DeviceLike = None) -> None:
        """Wait for all streams of the device."""
        self.simulated_machine.timeline.synchronize(self._find(device).torch_device)

    def Stream(self, device: DeviceLike = None, *, priority: int = 0) -> SimulatedStream:  # noqa: N802
        return self.simulated_machine.timeline.new_stream(self._find(device).torch_device)

    def Event(self, *, enable_timing: bool = False) -> SimulatedEvent:  # noqa: N802
        return self.simulated_machine.timeline.new_event()

    def current_stream(self, device: DeviceLike = None) -> SimulatedStream:
        return self.simulated_machine.timeline.current_stream(self._find(device).torch_device)

    def default_stream(self, device: DeviceLike = None) -> SimulatedStream:
        return self.simulated_machine.timeline.default_stream(self._find(device).torch_device)

    @contextmanager
    def stream(self, stream: SimulatedStream) -> Iterator[None]:
        """Send this thread's work for the stream's device there, and make that device the current one, as CUDA does."""
        with self.device(stream.device), self.simulated_machine.timeline.on(stream):
            yield

    def can_device_access_peer(self, device: DeviceLike, peer: DeviceLike) -> bool:
        return frozenset((self._find(device).name, self._find(peer).name)) in self.simulated_machine.peers

    def empty_pinned(self, size_bytes: int) -> Tensor:
        """Fresh host memory, pinned until it is freed.

        Raises RuntimeError beyond the machine's limit.
        """
        return self.simulated_machine.empty_pinned(size_bytes)

    def lock_pages(self, memory: Tensor) -> None:
        """Page-lock host memory where it is. Raises RuntimeError beyond the machine's limit."""
        self.simulated_machine.lock_pages(memory)

    def unlock_pages(self, memory: Tensor) -> None:
        """Make pinned host memory ordinary, where it is."""
        self.simulated_machine.timeline.unlock_pages(memory)

    def empty_cache(self) -> None:
        """Nothing to give back: simulated devices cache no memory."""

    def manual_seed(self, seed: int) -> None:
        self._find(None).generator.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        for device in self.simulated_machine.devices:
            device.generator.manual_seed(seed)

    def get_rng_state(self, device: DeviceLike = None) -> Tensor:
        return self._find(device).generator.get_state()

    def set_rng_state(self, new_state: Tensor, device: DeviceLike = None) -> None:
        self._find(device).generator.set_state(new_state)

    def is_bf16_supported(self) -> bool:
        return True

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def _is_in_bad_fork(self) -> bool:
        return False

    def _find(self, device: DeviceLike) -> SimulatedDevice:
        return self.simulated_machine.device(device)
