"""What simulated devices do with each piece of work beyond computing it: its order, its time, its copies.

Operators and copies come here when they are issued, each with what has to run for it. It runs at once, or, where
execution is deferred (deferral.py), when its stream gets to it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from multigpu.multigpu_core.simulation.deferral import Deferral, Order, poison
from multigpu.multigpu_core.simulation.memory.allocator import Block, Blocks
from multigpu.multigpu_core.simulation.memory.ledger import CopyLog, CopyRecord
from multigpu.multigpu_core.simulation.tensors import bytes_of
from multigpu.multigpu_core.simulation.time.clock import HOST, VirtualClock
from multigpu.multigpu_core.simulation.time.host_threads import Host, join
from multigpu.multigpu_core.simulation.time.races import REUSE, UNPINNING
from multigpu.multigpu_core.simulation.time.streams import SimulatedEvent, SimulatedStream

Run = Callable[[], None]


class Timeline:
    """The streams of one simulated machine, its clock, its log of copies and, where wanted, its search for races."""

    def __init__(self) -> None:
        self.host = Host()
        self.clock = VirtualClock(self.host)
        self.copies = CopyLog()
        self.blocks = Blocks(self.host)
        self.detect_races = False
        self._defaults: dict[torch.device, SimulatedStream] = {}
        self._streams: WeakValueDictionary[int, SimulatedStream] = WeakValueDictionary()
        self._numbers = 0
        self._current = threading.local()

    @property
    def is_deferring(self) -> bool:
        return self.host.deferral is not None

    def new_stream(self, device: torch.device, name: str = "") -> SimulatedStream:
        self._numbers += 1
        stream = SimulatedStream(self.host, self._numbers, device, name or f"{device} stream {self._numbers}")
        self._streams[self._numbers] = stream
        return stream

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
        """Let the host wait for all streams of a device."""
        self.host.wait_for_device(device)

    @contextmanager
    def deferred(self, order: Order) -> Iterator[None]:
        """Run work in that order within a `with` block; what is left runs at its end."""
        self.host.deferral = deferral = Deferral(order)
        self.blocks.keeps_freed = True
        try:
            yield
        finally:
            deferral.finish_all()
            self.blocks.keeps_freed = False
            self.host.deferral = None

    def allocated(self, placed: Tensor, values: Tensor) -> None:
        """Know a new tensor, alone in its storage, that shows the bytes of `values`. Freed memory is used again.

        Raises:
            SimulatedRaceError: that memory may still be in use on another stream.
        """
        stream = self.current_stream(placed.device)
        for block in self.blocks.used_again(stream):
            self._use_again(block, stream)
        if placed.untyped_storage().nbytes():
            self.blocks.add(placed.untyped_storage(), bytes_of(values), stream)

    def operator_ran(
        self,
        operator: Any,
        device: torch.device,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        results: Any,
        run: Run | None = None,
    ) -> None:
        """Order and time an operator that was issued to a device; `run` is what is still to run for it.

        Raises:
            SimulatedRaceError: nothing orders it after what it needs.
        """
        self.check_unpinned()
        stream, name = self.current_stream(device), str(operator)
        number = stream.queue()
        if self.detect_races:
            written = {id(value) for value in written_by(operator, args, kwargs)}
            for tensor in tensors_in((*args, *kwargs.values())):
                if tensor.device == device:
                    self._access(tensor, name, stream, number, writes=id(tensor) in written)
            for tensor in tensors_in((results,)):
                if id(tensor) not in written:
                    self._access(tensor, name, stream, number, writes=True)
        self.clock.operator_ran(operator, stream, args, kwargs, results)
        has_failed = self.host.faults.issued(str(device), name, stream.stream_id, number)
        if run is not None and not has_failed:
            stream.run(self._reporting(run, stream, number))

    def copied(
        self, source: Tensor, destination: Tensor, non_blocking: bool, run: Run, begin: Run | None = None
    ) -> None:
        """Order, time and log a copy; `begin` leaves the destination half written, `run` writes it.

        Ordinary host memory blocks the host, whatever was asked for; what is copied from there is read at once.

        Raises:
            SimulatedRaceError: nothing orders it after what it needs.
        """
        self.check_unpinned()
        on_devices = [tensor for tensor in (source, destination) if tensor.device.type != HOST]
        streams = [self.current_stream(device) for device in dict.fromkeys(tensor.device for tensor in on_devices)]
        first, *others = streams
        for other in others:
            first.wait_stream(other)
        number = first.queue()
        if self.detect_races:
            for tensor in (source, destination):
                self._access(tensor, "copy", first, number, writes=tensor is destination)
        has_failed = self.host.faults.issued(str(first.device), "copy", first.stream_id, number)
        if begin is not None:
            first.run(begin, at_once=True)
        if not has_failed:
            first.run(self._reporting(run, first, number))
        for other in others:
            other.wait_stream(first)
        if source.device == destination.device:
            return
        is_pageable = any(t.device.type == HOST and not self.is_pinned(t) for t in (source, destination))
        ends = str(source.device), str(destination.device)
        self.clock.copied(*ends, source.nbytes, streams, pageable=is_pageable)
        self.copies.add(CopyRecord(*ends, source.nbytes, source.dtype))
        if is_pageable and non_blocking and source.device.type == HOST:
            self.host.wait_for_time(first.last)
        elif is_pageable or (not non_blocking and len(on_devices) == 1):
            first.synchronize()

    def read_by_host(self, tensor: Tensor) -> None:
        """The host waits for one number."""
        stream = self.current_stream(tensor.device)
        number = stream.queue()
        if self.detect_races:
            self._access(tensor, "item", stream, number, writes=False)
        self.clock.copied(str(tensor.device), HOST, tensor.nbytes, [stream], pageable=False)
        self.copies.add(CopyRecord(str(tensor.device), HOST, tensor.nbytes, tensor.dtype))
        stream.synchronize()

    def used_by_host(self, operator: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """Check what an operator of the host does with pinned memory.

        Raises:
            SimulatedRaceError: the host has not waited for a copy from or to that memory.
        """
        written = {id(value) for value in written_by(operator, args, kwargs)}
        for tensor in tensors_in((*args, *kwargs.values())):
            block = self.blocks.of(tensor) if self.is_pinned(tensor) else None
            if block is not None:
                writes = id(tensor) in written
                block.accesses.used_by_host(tensor, str(operator), self.host.knows, writes=writes)

    def used_by_stream(self, tensor: Tensor, stream_number: int) -> None:
        """`record_stream`: the tensor's memory is not used again before that stream's work until then is done."""
        block, stream = self.blocks.of(tensor), self._streams.get(stream_number)
        if block is not None and stream is not None:
            block.users[stream_number] = stream

    def unlock_pages(self, memory: Tensor) -> None:
        """Take pinned memory as ordinary from now on.

        Raises:
            SimulatedRaceError: a copy from or to it may be under way.
        """
        block = self.blocks.unlock(memory)
        if block is not None and self.detect_races:
            block.accesses.used_again(UNPINNING, "the host", self.host.knows, frozenset())

    @property
    def locked_bytes(self) -> int:
        return self.blocks.locked_bytes

    def check_unpinned(self) -> None:
        """Raise SimulatedRaceError if host memory was unpinned while a copy could be under way."""
        for block in self.blocks.unpinned():
            if self.detect_races:
                block.accesses.used_again(UNPINNING, "the host", block.known_when_freed, frozenset())

    def is_pinned(self, memory: Tensor) -> bool:
        return self.blocks.is_pinned(memory)

    def reset(self) -> None:
        """Forget streams, accesses and copies: the machine has fresh devices."""
        self._defaults.clear()
        self.host.begin()
        self.host.busy.clear()
        self._current = threading.local()
        self.blocks.forget_accesses()
        self.host.faults.clear()
        self.copies.clear()
        self.clock.clear()

    def _access(self, tensor: Tensor, name: str, stream: SimulatedStream, number: int, *, writes: bool) -> None:
        block = self.blocks.of(tensor)
        if block is not None:
            block.accesses.add(tensor, name, stream, number, writes=writes)

    def _use_again(self, block: Block, stream: SimulatedStream) -> None:
        memory, block.memory = block.memory, None
        if memory is not None:
            stream.run(lambda: poison(memory), *(mark.job for mark in block.waits_for))
        if self.detect_races:
            knows = {**stream.knows}
            join(knows, self.host.knows)
            block.accesses.used_again(REUSE, stream.name, knows, frozenset(block.users))

    def _reporting(self, run: Run, stream: SimulatedStream, number: int) -> Run:
        """What fails when it runs later is told to the host when it waits for it."""
        if self.host.deferral is None:
            return run

        def guarded() -> None:
            try:
                run()
            except Exception as error:
                self.host.faults.happened(error, stream.stream_id, number)

        return guarded


def written_by(operator: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """The arguments that an operator writes to."""
    for position, argument in enumerate(operator._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            yield from tensors_in((value,))


def tensors_in(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)
