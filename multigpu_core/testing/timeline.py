"""What simulated devices do with each piece of work beyond computing it: its order, its time, its copies."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .clock import HOST, VirtualClock
from .ledger import CopyLog, CopyRecord
from .races import AccessLog
from .streams import Host, SimulatedEvent, SimulatedStream


class Timeline:
    """The streams of one simulated machine, its clock, its log of copies and, where wanted, its search for races."""

    def __init__(self) -> None:
        self.host = Host()
        self.clock = VirtualClock(self.host)
        self.copies = CopyLog()
        self.detect_races = False
        self._accesses = AccessLog()
        self._locked: dict[int, int] = {}
        self._defaults: dict[torch.device, SimulatedStream] = {}
        self._numbers = 0
        self._current = threading.local()

    def new_stream(self, device: torch.device, name: str = "") -> SimulatedStream:
        self._numbers += 1
        return SimulatedStream(self.host, self._numbers, device, name or f"{device} stream {self._numbers}")

    def new_event(self) -> SimulatedEvent:
        return SimulatedEvent(self.host)

    def default_stream(self, device: torch.device) -> SimulatedStream:
        if device not in self._defaults:
            self._defaults[device] = self.new_stream(device, str(device))
        return self._defaults[device]

    def current_stream(self, device: torch.device) -> SimulatedStream:
        """The stream that this thread's work for a device goes to."""
        chosen: dict[torch.device, SimulatedStream] = getattr(self._current, "streams", {})
        return chosen.get(device) or self.default_stream(device)

    @contextmanager
    def on(self, stream: SimulatedStream) -> Iterator[None]:
        """Send this thread's work for the stream's device there, within a `with` block."""
        before: dict[torch.device, SimulatedStream] = getattr(self._current, "streams", {})
        self._current.streams = {**before, stream.device: stream}
        try:
            yield
        finally:
            self._current.streams = before

    def synchronize(self, device: torch.device) -> None:
        """Let the host wait for all that a device was given."""
        for stream in [self.default_stream(device), *getattr(self._current, "streams", {}).values()]:
            if stream.device == device:
                stream.synchronize()

    def lock_pages(self, memory: Tensor) -> None:
        """Take host memory as page-locked until its storage is freed."""
        storage = memory.untyped_storage()
        self._locked[storage.data_ptr()] = storage.nbytes()
        weakref.finalize(storage, self._locked.pop, storage.data_ptr(), None).atexit = False

    def unlock_pages(self, memory: Tensor) -> None:
        """Take it as ordinary host memory from now on."""
        self._locked.pop(memory.untyped_storage().data_ptr(), None)

    @property
    def locked_bytes(self) -> int:
        return sum(self._locked.values())

    def is_page_locked(self, memory: Tensor) -> bool:
        return memory.device.type == HOST and memory.untyped_storage().data_ptr() in self._locked

    def freed(self, address: int) -> None:
        """A storage of a simulated device is gone."""
        self._accesses.forget(address)

    def operator_ran(
        self, operator: Any, device: torch.device, args: Sequence[Any], kwargs: dict[str, Any], results: Any
    ) -> None:
        """Order and time an operator that was issued to a device.

        Raises:
            SimulatedRaceError: nothing orders it after what it needs.
        """
        stream = self.current_stream(device)
        if self.detect_races:
            number = stream.queue()
            name = str(operator)
            written = {id(value) for value in _written(operator, args, kwargs)}
            for tensor in _tensors((*args, *kwargs.values())):
                if tensor.device == device:
                    self._accesses.add(tensor, name, stream, number, writes=id(tensor) in written)
            for tensor in _tensors((results,)):
                if id(tensor) not in written:
                    self._accesses.add(tensor, name, stream, number, writes=True)
        self.clock.operator_ran(operator, stream, args, kwargs, results)

    def copied(self, source: Tensor, destination: Tensor, non_blocking: bool) -> None:
        """Order, time and log a copy. Ordinary host memory blocks the host, whatever was asked for.

        Raises:
            SimulatedRaceError: nothing orders it after what it needs.
        """
        on_devices = [tensor for tensor in (source, destination) if tensor.device.type != HOST]
        streams = [self.current_stream(device) for device in dict.fromkeys(tensor.device for tensor in on_devices)]
        first, *others = streams
        for other in others:
            first.wait_stream(other)
        number = first.queue()
        for tensor in (source, destination):
            if self.detect_races and (tensor.device.type != HOST or self.is_page_locked(tensor)):
                self._accesses.add(tensor, "copy", first, number, writes=tensor is destination)
        for other in others:
            other.wait_stream(first)
        if source.device == destination.device:
            return
        is_pageable = any(t.device.type == HOST and not self.is_page_locked(t) for t in (source, destination))
        ends = str(source.device), str(destination.device)
        self.clock.copied(*ends, source.nbytes, streams, pageable=is_pageable)
        if is_pageable or (not non_blocking and len(on_devices) == 1):
            first.synchronize()
        self.copies.add(CopyRecord(*ends, source.nbytes, source.dtype))

    def read_by_host(self, tensor: Tensor) -> None:
        """The host waits for one number."""
        stream = self.current_stream(tensor.device)
        if self.detect_races:
            self._accesses.add(tensor, "item", stream, stream.queue(), writes=False)
        self.clock.copied(str(tensor.device), HOST, tensor.nbytes, [stream], pageable=False)
        stream.synchronize()
        self.copies.add(CopyRecord(str(tensor.device), HOST, tensor.nbytes, tensor.dtype))

    def reset(self) -> None:
        """Forget streams, accesses and copies: the machine has fresh devices."""
        self._defaults.clear()
        self._current = threading.local()
        self._accesses.clear()
        self.copies.clear()
        self.clock.clear()


def _written(operator: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """The arguments that an operator writes to."""
    for position, argument in enumerate(operator._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            yield from _tensors((value,))


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
