"""Every device that can hold tensors, by the names that users write."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial

import torch

from multigpu.multigpu_core.devices.backends.base import DeviceActivity, DeviceBackend
from multigpu.multigpu_core.devices.backends.streams import DeviceStream, Streams

from .after_capture import AfterCapture
from .errors import DeviceError
from .info import DeviceInfo
from .naming import ANY_ACCELERATOR, Spelling, nearest_name, read_spelling
from .peer_access import PeerAccess
from .stream_pool import StreamPool
from .survey import DeviceProblem, DeviceSlot, DeviceSurvey, Restriction, probe_count


@dataclass(frozen=True)
class SharedByLoads:
    """What is kept for the life of a registry, and of those that are restricted from it."""

    streams: StreamPool = field(default_factory=StreamPool)
    after_capture: dict[DeviceBackend, AfterCapture] = field(default_factory=dict)
    peer_access: PeerAccess = field(default_factory=PeerAccess)


class DeviceRegistry:
    """The devices of some backends, asked afresh at each call.

    Wherever a method takes a name it takes any spelling that `resolve` takes, asks that device's backend alone, and
    raises `DeviceError` if there is no such device. What a driver raises while it is asked about one device goes
    through to the caller; listings leave the device out instead, and `survey` reports it.
    """

    def __init__(
        self,
        backends: Iterable[DeviceBackend],
        *,
        hints: Mapping[str, str] | None = None,
        environ: Mapping[str, str] = os.environ,
        restrictions: tuple[Restriction, ...] = (),
        shared: SharedByLoads | None = None,
    ) -> None:
        """`hints` gives, by device type, a sentence on the host's flag that shows devices of that type.

        Shown to whoever asks for a device that is not available.
        """
        self._backends = tuple(backends)
        self._hints = dict(hints or {})
        self._environ = environ
        self._restrictions = restrictions
        self._shared = shared or SharedByLoads()

    def restricted(self, names: Collection[str], reason: str) -> DeviceRegistry:
        """The same registry with only the canonical `names` left; `reason` explains the refusal of others."""
        restrictions = (*self._restrictions, Restriction(frozenset(names), reason))
        return DeviceRegistry(
            self._backends, hints=self._hints, environ=self._environ, restrictions=restrictions, shared=self._shared
        )

    def names(self) -> tuple[str, ...]:
        """Canonical names, cpu first; touches no device."""
        return tuple(slot.name for slot in self._slots())

    @property
    def is_simulated(self) -> bool:
        """Whether any of the devices is simulated."""
        return any(slot.backend.is_simulated for slot in self._slots())

    def devices(self) -> tuple[DeviceInfo, ...]:
        """Every device with its memory as it is now; touches all of them."""
        return self.survey().devices

    def survey(self, *, wake: bool = True) -> DeviceSurvey:
        """Every device and every failed probe; touches all devices.

        Without `wake` a card that this process does not use yet is not touched, and told as empty.
        """
        devices: list[DeviceInfo] = []
        problems = [DeviceProblem(b.type, error) for b in self._backends if (error := probe_count(b)[1])]
        for slot in self._slots():
            try:
                devices.append(slot.read(wake=wake))
            except Exception as error:  # A driver can fail in any way; the other devices still work.
                problems.append(DeviceProblem(slot.name, error))
        return DeviceSurvey(tuple(devices), tuple(problems))

    def problems(self) -> tuple[DeviceProblem, ...]:
        """The failed probes of a survey; touches all devices."""
        return self.survey().problems

    def resolve(self, text: str) -> str:
        """The canonical name of what a user wrote: ``CUDA:1``; ``cuda``, its first; ``gpu:1``, the second after cpu."""
        return self._slot(text).name

    def info(self, name: str) -> DeviceInfo:
        return self._slot(name).read()

    def torch_device(self, name: str) -> torch.device:
        slot = self._slot(name)
        return slot.backend.torch_device(slot.index)

    def name_of(self, device: torch.device) -> str:
        """The canonical name of a torch device; without an index it is the one that is current now.

        The device need not be listed. Raises `DeviceError` for a type that holds no data here (``meta``).
        """
        for backend in self._backends:
            if backend.torch_type == device.type:
                return backend.name(backend.current_index() if device.index is None else device.index)
        raise DeviceError(str(device), self.names())

    def visibility_variables(self, family: str) -> tuple[str, ...]:
        """The environment variables that list which devices of a family a process sees."""
        backend = self._backend(family)
        return backend.visibility_variables if backend is not None else ()

    def free_bytes(self, name: str) -> int:
        """Bytes that can be allocated now, memory that torch holds but does not use included."""
        slot = self._slot(name)
        return slot.backend.memory(slot.index).free_bytes

    def total_bytes(self, name: str) -> int:
        slot = self._slot(name)
        return slot.backend.total_bytes(slot.index)

    def marketing_name(self, name: str) -> str:
        """What the vendor calls the device; creates no context on it."""
        slot = self._slot(name)
        return slot.backend.marketing_name(slot.index)

    def activity(self, name: str) -> DeviceActivity:
        """How busy and how warm the device is, as far as its driver reports it; creates no context on it."""
        slot = self._slot(name)
        return slot.backend.activity(slot.index)

    def empty_cache(self, name: str) -> None:
        """Give the memory that torch holds but does not use back to the driver."""
        slot = self._slot(name)
        slot.backend.empty_cache(slot.index)

    def synchronize(self, name: str) -> None:
        """Wait until the device has done all that was asked of it."""
        slot = self._slot(name)
        slot.backend.synchronize(slot.index)

    def streams(self, name: str) -> Streams | None:
        """How to make streams on the device; None where copies cannot run on one of their own."""
        return self._slot(name).backend.streams

    def shared_stream(self, name: str, use: str) -> DeviceStream:
        """A stream of a device that has some, the same for the same use: few are made, and all loads share them."""
        slot = self._slot(name)
        streams = slot.backend.streams
        assert streams is not None, f"{name} has streams"
        return self._shared.streams.stream(streams, slot.backend.torch_device(slot.index), use)

    def after_capture(self, name: str) -> AfterCapture:
        """Runs what a finalizer has to do with the device, but not while a graph is captured."""
        backend = self._slot(name).backend
        return self._shared.after_capture.setdefault(backend, AfterCapture(backend.is_capturing))

    def empty_pinned(self, size_bytes: int, name: str) -> torch.Tensor:
        """Fresh host memory, as bytes, pinned for copies from and to the device.

        Raises RuntimeError where its driver refuses.
        """
        slot = self._slot(name)
        with slot.backend.device_scope(slot.index):  # a driver wakes the current card for it
            return slot.backend.empty_pinned(size_bytes)

    def unlock_pages(self, memory: torch.Tensor, name: str) -> bool:
        """Make such memory ordinary memory where it is; false where the device's driver cannot.

        No copy from or to it may be under way.
        """
        slot = self._slot(name)
        with slot.backend.device_scope(slot.index):
            return slot.backend.unlock_pages(memory)

    def lock_pages(self, memory: torch.Tensor, name: str) -> None:
        """Page-lock again what `unlock_pages` has made ordinary.

        Raises RuntimeError where the device's driver refuses.
        """
        slot = self._slot(name)
        with slot.backend.device_scope(slot.index):
            slot.backend.lock_pages(memory)

    def has_peer_access(self, name: str, other: str) -> bool:
        """Whether a device reads another's memory directly, without going through the host."""
        slot, other_slot = self._slot(name), self._slot(other)
        if slot.backend is not other_slot.backend:
            return False
        return slot.backend.has_peer_access(slot.index, other_slot.index)

    def reads_directly(self, name: str, other: str) -> bool:
        """The same, tried with real bytes the first time: a driver may claim what does not work."""
        streams = self.streams(name)
        if streams is None or not self.has_peer_access(name, other):
            return False
        reader, source = (
            self.shared_stream(name, f"copies from {other}"),
            self.shared_stream(other, f"copies to {name}"),
        )
        return self._shared.peer_access.works(streams, reader, source)

    def device_scope(self, name: str) -> AbstractContextManager[object]:
        """Make the device current within a `with` block; cpu, mps and DirectML know no current device."""
        return self.device_scopes(name)()

    def device_scopes(self, name: str) -> Callable[[], AbstractContextManager[object]]:
        """Makes such scopes for one device, without looking it up each time."""
        slot = self._slot(name)
        return partial(slot.backend.device_scope, slot.index)

    def _slots(self) -> Iterator[DeviceSlot]:
        for backend in self._backends:
            for index in range(probe_count(backend)[0]):
                slot = DeviceSlot(backend, index)
                if not self._restrictions_on(slot):
                    yield slot

    def _slot(self, text: str) -> DeviceSlot:
        spelling = read_spelling(text)
        slot = self._find(spelling) if spelling is not None else None
        if slot is not None and not self._restrictions_on(slot):
            return slot
        names = self.names()
        reasons = self._why_absent(spelling, slot) if spelling is not None else ()
        raise DeviceError(text, names, nearest_name(text, names), tuple(reasons))

    def _find(self, spelling: Spelling) -> DeviceSlot | None:
        if spelling.family == ANY_ACCELERATOR:
            accelerators = [slot for slot in self._slots() if slot.backend.type != "cpu"]
            return accelerators[spelling.position] if spelling.position < len(accelerators) else None
        backend = self._backend(spelling.family)
        if backend is None or spelling.position >= probe_count(backend)[0]:
            return None
        return DeviceSlot(backend, spelling.position)

    def _backend(self, family: str) -> DeviceBackend | None:
        return next((b for b in self._backends if family == b.type or family in b.aliases), None)

    def _restrictions_on(self, slot: DeviceSlot) -> tuple[str, ...]:
        return tuple(r.reason for r in self._restrictions if slot.name not in r.names)

    def _why_absent(self, spelling: Spelling, hidden: DeviceSlot | None) -> Iterator[str]:
        """Sentences on what hides the device and how to show it."""
        if hidden is not None:
            yield from self._restrictions_on(hidden)
            return
        if spelling.family == ANY_ACCELERATOR:
            yield from (restriction.reason for restriction in self._restrictions)
            backends = self._backends
        else:
            backend = self._backend(spelling.family)
            backends = (backend,) if backend is not None else ()
        for backend in backends:
            for variable in backend.visibility_variables:
                if variable in self._environ:
                    value = self._environ[variable]
                    yield f"{variable}={value!r} hides devices: unset it, or add the device to it, then restart."
            if error := probe_count(backend)[1]:
                yield f"Looking for {backend.type} devices failed: {error}"
        for family in dict.fromkeys((spelling.family, *(backend.type for backend in backends))):
            if family in self._hints:
                yield self._hints[family]
