"""A machine with simulated accelerators."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from multigpu.multigpu_core.simulation.deferral import Order
from multigpu.multigpu_core.simulation.host_accesses import HostAccesses
from multigpu.multigpu_core.simulation.memory.ledger import CopyLog, SimulatedDevice
from multigpu.multigpu_core.simulation.time.clock import VirtualClock
from multigpu.multigpu_core.simulation.timeline import Timeline

from .backend import register, registered_backend
from .device_module import DeviceLike, SimulatedDeviceModule
from .errors import SimulationUnavailableError
from .launches import Launches
from .operators import OperatorRunner

GB = 1024**3
DEFAULT_BACKEND = "npu"


class SimulatedMachine:
    """The simulated accelerators of this process: its devices, what they hold, and the log of copies.

    Get it with `simulate` or `simulated`. Its backend name is fixed for the life of the process; the number, sizes and
    names of its devices can change with `configure`. Within `detecting_races`, work that nothing orders after what it
    needs raises; within `deferred`, it computes a wrong number. `clock` tells virtual time once it is started.
    """

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.devices: tuple[SimulatedDevice, ...] = ()
        self.timeline = Timeline()
        self.peers: set[frozenset[str]] = set()
        """Pairs of devices, by name, of which each reads the other's memory directly."""
        self._page_locked_limit_bytes: float = math.inf
        self.module = SimulatedDeviceModule(backend, self)
        self._launches = Launches(lambda: self.device().torch_device)
        runner = OperatorRunner(self.device, backend, self.timeline, self._launches)
        self._libraries = register(backend, self.module, runner)

    @property
    def copies(self) -> CopyLog:
        """Every copy between devices since the last `clear`."""
        return self.timeline.copies

    @property
    def clock(self) -> VirtualClock:
        return self.timeline.clock

    @property
    def detect_races(self) -> bool:
        return self.timeline.detect_races

    @detect_races.setter
    def detect_races(self, on: bool) -> None:
        self.timeline.detect_races = on

    @property
    def raw_pointer_operators(self) -> set[str]:
        """Operators that launch on the current device, whatever their tensors': ``aten::linear``, ``mylib::*``.

        They raise `WrongCurrentDeviceError` where the two differ. Empty until a test names some.
        """
        return self._launches.by_raw_pointer

    @contextmanager
    def detecting_races(self) -> Iterator[None]:
        """Detect races within a `with` block, also those of this thread's own use of pinned memory."""
        before, self.detect_races = self.detect_races, True
        try:
            with HostAccesses(self.timeline):
                yield
            self.timeline.check_unpinned()
        finally:
            self.detect_races = before

    @contextmanager
    def deferred(self, order: Order = "late") -> Iterator[None]:
        """Run work not when it is issued but when streams and events allow, within a `with` block.

        That is when the host waits for it ("late"), at once ("early"), or at times that follow from a seed.
        """
        with self.timeline.deferred(order):
            yield

    def check_launch(self, operator: str, *tensors: torch.Tensor) -> None:
        """Check a kernel of a test's own, which launches on the current device.

        Raises `WrongCurrentDeviceError` where one of the tensors is on another.
        """
        for tensor in tensors:
            self._launches.require_current(operator, tensor.device)

    def inject_fault(self, device: str, operator: str = "*") -> None:
        """Let the next operator of that name (``aten.add.Tensor``, ``aten.add*``, ``copy``) fail on a device.

        It fails as on a real device: the host learns of it when it waits for work that comes after, and gets a
        SimulatedFaultError then.
        """
        self.timeline.host.faults.want(self.device(device).name, operator)

    def empty_pinned(self, size_bytes: int) -> torch.Tensor:
        """Fresh host memory that counts as pinned until it is freed; RuntimeError beyond the limit."""
        self._require_lockable(size_bytes)
        return self.timeline.blocks.pinned(size_bytes)

    def lock_pages(self, memory: torch.Tensor) -> None:
        """Page-lock again what `unlock_pages` has made ordinary; RuntimeError beyond the limit."""
        self._require_lockable(memory.untyped_storage().nbytes())
        self.timeline.blocks.lock(memory)

    def limit_page_locking(self, further_bytes: int) -> None:
        """Let the driver page-lock this many bytes more than are locked now, and refuse the rest.

        What earlier work has left as garbage is collected first: it would be returned at a time that nobody knows.
        """
        gc.collect()
        self._page_locked_limit_bytes = self.timeline.locked_bytes + further_bytes

    def _require_lockable(self, size_bytes: int) -> None:
        if self.timeline.locked_bytes + size_bytes > self._page_locked_limit_bytes:
            raise RuntimeError(f"the simulated driver page-locks {self._page_locked_limit_bytes} bytes at most")

    def configure(self, sizes: Sequence[int], names: Sequence[str] | None = None) -> None:
        """Have one fresh, empty device per entry of `sizes` (bytes); tensors of earlier devices no longer count."""
        names = names or [f"Simulated accelerator {index}" for index in range(len(sizes))]
        if len(names) != len(sizes):
            raise ValueError(f"{len(sizes)} sizes but {len(names)} names: give each simulated device one of each.")
        self.devices = tuple(
            SimulatedDevice(torch.device(self.backend, index), name, size)
            for index, (name, size) in enumerate(zip(names, sizes, strict=True))
        )
        self.module.reset_current_device()
        self.timeline.reset()
        self.peers.clear()
        self.raw_pointer_operators.clear()
        self._page_locked_limit_bytes = math.inf

    def device(self, device: DeviceLike = None) -> SimulatedDevice:
        """The device named, numbered or given; None, or no number, is the current one.

        Raises `RuntimeError` where the machine has no such device.
        """
        if device is None:
            index = self.module.current_device()
        elif isinstance(device, int):
            index = device
        else:
            given = torch.device(device)
            if given.type != self.backend:
                raise RuntimeError(f"{given} is not a simulated device; those here are of type {self.backend}.")
            index = self.module.current_device() if given.index is None else given.index
        if not 0 <= index < len(self.devices):
            raise RuntimeError(
                f"{self.backend.upper()} error: invalid device ordinal {index}; this simulated machine has "
                f"{len(self.devices)} devices."
            )
        return self.devices[index]

    def reset_peaks(self) -> None:
        """Let each device's peak start again from what it holds now."""
        for device in self.devices:
            device.reset_peak()


def simulate(
    sizes: Sequence[int] = (2 * GB, 1 * GB), names: Sequence[str] | None = None, backend: str = DEFAULT_BACKEND
) -> SimulatedMachine:
    """Give this process one simulated accelerator per entry of `sizes`, in bytes.

    `backend` is the device type, as in ``npu:0``; PyTorch lets a process choose it once. Raises
    `SimulationUnavailableError` where PyTorch is older than 2.10 or another backend has taken the place.
    """
    machine = getattr(registered_backend(), "simulated_machine", None) or SimulatedMachine(backend)
    if machine.backend != backend:
        raise SimulationUnavailableError(f"this process simulates {machine.backend!r}; {backend!r} needs a fresh one")
    machine.configure(sizes, names)
    return machine


@contextmanager
def simulated(
    sizes: Sequence[int] = (2 * GB, 1 * GB), names: Sequence[str] | None = None, backend: str = DEFAULT_BACKEND
) -> Iterator[SimulatedMachine]:
    """`simulate` for the length of a `with` block; afterwards the devices there were before are back."""
    before = getattr(registered_backend(), "simulated_machine", None)
    devices = before.devices if before else ()
    machine = simulate(sizes, names, backend)
    try:
        yield machine
    finally:
        machine.devices = devices
        machine.module.reset_current_device()
        machine.timeline.reset()
