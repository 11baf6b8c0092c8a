"""Devices whose torch module is shaped like torch.cuda: CUDA itself, XPU, and whatever comes through PrivateUse1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import torch

from multigpu.multigpu_core.devices.after_capture import AfterCapture

from .base import DeviceActivity, DeviceBackend, MemoryReading
from .pinning import Pins
from .streams import Streams
from .vendor import VendorPackage


class AcceleratorBackend(DeviceBackend):
    """One family behind ``torch.<type>``.

    `module` stands in for ``torch.<type>``, which is looked up at each use since a backend may be registered late.
    """

    def __init__(self, type: str, visibility_variables: tuple[str, ...] = (), module: Any = None) -> None:
        self._type = type
        self._visibility_variables = visibility_variables
        self._module = module

    @property
    def type(self) -> str:
        return self._type

    @property
    def visibility_variables(self) -> tuple[str, ...]:
        return self._visibility_variables

    @property
    def module(self) -> Any:
        """The torch module of this family; None if this torch has none."""
        return getattr(torch, self.type, None) if self._module is None else self._module

    @property
    def is_simulated(self) -> bool:
        return hasattr(self.module, "simulated_machine")

    @property
    def can_pin_host_memory(self) -> bool:
        return self.has_streams

    @property
    def streams(self) -> Streams | None:
        module = self.module
        return module if hasattr(module, "Stream") else None

    def empty_pinned(self, size_bytes: int) -> torch.Tensor:
        if hasattr(self.module, "empty_pinned"):  # a backend that brings an allocator of its own
            locked: torch.Tensor = self.module.empty_pinned(size_bytes)
            return locked
        return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)

    def lock_pages(self, memory: torch.Tensor) -> None:
        if hasattr(self.module, "lock_pages"):
            self.module.lock_pages(memory)
        else:
            super().lock_pages(memory)

    def unlock_pages(self, memory: torch.Tensor) -> bool:
        if not hasattr(self.module, "unlock_pages"):
            return False
        self.module.unlock_pages(memory)
        return True

    def is_capturing(self) -> bool:
        is_capturing = getattr(self.module, "is_current_stream_capturing", None)
        return is_capturing is not None and self._is_initialized() and bool(is_capturing())

    def has_peer_access(self, index: int, other_index: int) -> bool:
        can_access = getattr(self.module, "can_device_access_peer", None)
        return bool(can_access(index, other_index)) if can_access is not None else False

    def count(self) -> int:
        module = self.module
        return int(module.device_count()) if module is not None and module.is_available() else 0

    def current_index(self) -> int:
        return int(self.module.current_device())

    def memory(self, index: int) -> MemoryReading:
        stats = self._allocator_stats(index)
        reserved = stats.get("reserved_bytes.all.current", 0)
        unused = reserved - stats.get("active_bytes.all.current", 0)
        try:
            driver_free, total = self.module.mem_get_info(index)
        except (AttributeError, RuntimeError):
            # Older XPU builds and some Intel GPUs cannot say what is free: then only this process is counted.
            total = self.total_bytes(index)
            driver_free = total - reserved
        return MemoryReading(min(int(total), int(driver_free + unused)), int(total))

    def total_bytes(self, index: int) -> int:
        if hasattr(self.module, "get_device_properties"):  # Unlike mem_get_info, this creates no context.
            return int(self.module.get_device_properties(index).total_memory)
        return int(self.module.mem_get_info(index)[1])

    def marketing_name(self, index: int) -> str:
        return str(self.module.get_device_name(index)) or self.name(index)

    def activity(self, index: int) -> DeviceActivity:
        return DeviceActivity(self._reported("utilization", index), self._reported("temperature", index))

    def _reported(self, what: str, index: int) -> int | None:
        """What the driver's management library says, which torch asks by a package that may be missing."""
        try:
            return int(getattr(self.module, what)(index))
        except Exception:  # no such function, package, right or sensor; a driver can fail in any way
            return None

    def empty_cache(self, index: int) -> None:
        if not self._is_initialized():
            return
        with self.device_scope(index):
            self.module.empty_cache()

    def synchronize(self, index: int) -> None:
        if self._is_initialized() and hasattr(self.module, "synchronize"):
            self.module.synchronize(index)

    def device_scope(self, index: int) -> AbstractContextManager[object]:
        module = self.module
        if hasattr(module, "device"):
            scope: AbstractContextManager[object] = module.device(index)
            return scope
        return self._switched_to(index) if hasattr(module, "set_device") else nullcontext()

    @contextmanager
    def _switched_to(self, index: int) -> Iterator[None]:
        previous = self.module.current_device()
        self.module.set_device(index)
        try:
            yield
        finally:
            self.module.set_device(previous)

    def _allocator_stats(self, index: int) -> Mapping[str, int]:
        stats: Mapping[str, int] = self.module.memory_stats(index) if hasattr(self.module, "memory_stats") else {}
        return stats

    def _is_initialized(self) -> bool:
        """Whether anything can have been allocated or queued; a backend that cannot tell is taken to be in use."""
        return bool(self.module.is_initialized()) if hasattr(self.module, "is_initialized") else True


class CudaBackend(AcceleratorBackend):
    """NVIDIA, AMD (ROCm) and Iluvatar (CoreX) cards: torch builds for all three call them cuda."""

    def __init__(self, module: Any = None) -> None:
        super().__init__("cuda", module=module)
        self._pins = Pins(self._cudart, self._clear_error, AfterCapture(self.is_capturing))

    def is_awake(self, index: int) -> bool:
        has_context: bool = self._is_initialized() and torch._C._cuda_hasPrimaryContext(index)  # type: ignore[attr-defined]
        return has_context

    def empty_pinned(self, size_bytes: int) -> torch.Tensor:
        # Torch's own pinned allocator rounds up to the next power of two: up to twice the memory for an arena.
        return self._pins.empty(size_bytes)

    def lock_pages(self, memory: torch.Tensor) -> None:
        self._pins.lock(memory)

    def unlock_pages(self, memory: torch.Tensor) -> bool:
        self._pins.unlock(memory)
        return True

    def _cudart(self) -> Any:
        return self.module.cudart()

    def _clear_error(self) -> None:
        """Take the runtime's last error off: the first thing that looks for one gets it, and torch offers no other way.

        Without this that would be the next kernel of the model.
        """
        with suppress(RuntimeError):
            torch.ones(1, device=self.torch_device(self.current_index())).add_(1)

    @property
    def aliases(self) -> tuple[str, ...]:
        if torch.version.hip:
            return ("rocm", "hip")
        return ("corex", "ixuca") if hasattr(torch, "corex") else ()

    @property
    def visibility_variables(self) -> tuple[str, ...]:
        rocm = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES") if torch.version.hip else ()
        return ("CUDA_VISIBLE_DEVICES", *rocm)


class PrivateUse1Backend(AcceleratorBackend):
    """The one out-of-tree backend that torch lets register itself: Ascend, Cambricon, a simulated one, any other.

    Its name is torch's to tell and may be set at any time, so it is read at each use. `packages` are vendors' packages
    that were imported so that they register themselves.
    """

    UNREGISTERED = "privateuseone"
    """What torch calls the backend until one has registered itself under its own name."""

    def __init__(
        self, variables_by_type: Mapping[str, tuple[str, ...]] | None = None, packages: tuple[VendorPackage, ...] = ()
    ) -> None:
        super().__init__(self.UNREGISTERED)
        self._variables_by_type = variables_by_type or {}
        self._packages = packages

    @property
    def type(self) -> str:
        return torch._C._get_privateuse1_backend_name()

    @property
    def visibility_variables(self) -> tuple[str, ...]:
        return self._variables_by_type.get(self.type, ())

    def count(self) -> int:
        if self.type != self.UNREGISTERED:
            return super().count()
        for package in self._packages:
            package.raise_if_broken()
        return 0
