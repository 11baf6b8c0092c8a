"""Virtual time of simulated devices: the same figure on every machine, whatever the speed of that machine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from multigpu.multigpu_core.devices import HardwareProfile, LinkSpeed

from .host_threads import Host
from .schedule import Work
from .streams import SimulatedStream

aten = torch.ops.aten
HOST = "cpu"


@dataclass(frozen=True)
class ClockSettings:
    """How fast the simulated machine is.

    A link that the profile lacks is that through the host, or instantaneous. `memory_bytes_per_second` bounds
    operators that are no matrix products; `launch_seconds` is what a host thread takes to issue one operator or copy.
    `host_bytes_per_second` is how fast it copies host memory itself, where `SimulatedMachine.detecting_races` sees it.
    With `shared_copy_engines` a device has one copy engine for each direction, as most have, whatever is at the other
    end; without, each pair of devices has its own.
    """

    profile: HardwareProfile
    memory_bytes_per_second: float = math.inf
    launch_seconds: float = 0.0
    host_bytes_per_second: float = math.inf
    shared_copy_engines: bool = False


@dataclass(frozen=True)
class Span:
    """One piece of work: what `engine` (``npu:0``, or ``cpu > npu:0`` for a link) did for `stream`.

    `label` is what it was for, where the host said so.
    """

    name: str
    engine: str
    stream: str
    label: str
    start_seconds: float
    seconds: float
    bytes: int = 0

    @property
    def end_seconds(self) -> float:
        return self.start_seconds + self.seconds


class VirtualClock:
    """Tells the time of work on simulated devices, and keeps a trace of it. Off, and free, without settings."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._done: list[tuple[Work, str, str, str, int]] = []
        self._label = ""
        self.settings: ClockSettings | None = None

    @property
    def now_seconds(self) -> float:
        """The time of this host thread. Synchronize a device first to know when its work is done."""
        return self._host.seconds

    def start(self, settings: ClockSettings) -> None:
        """Begin at zero, with these speeds and an empty trace."""
        self.settings = settings
        self._host.begin()
        self.clear()

    def stop(self) -> None:
        """Take no more time; the trace stays."""
        self._host.schedule.stop()
        self.settings = None

    def clear(self) -> None:
        """Forget the trace."""
        self._done.clear()

    @property
    def trace(self) -> list[Span]:
        """What each engine did, in the order in which it was issued."""
        self._host.schedule.tell()
        return [
            Span(name, engine, stream, label, work.start_seconds, work.seconds, size_bytes)
            for work, name, stream, label, size_bytes in self._done
            for engine in work.engines
        ]

    @contextmanager
    def label(self, text: str) -> Iterator[None]:
        """Name what is issued within a `with` block, for the trace."""
        before, self._label = self._label, text
        try:
            yield
        finally:
            self._label = before

    def operator_ran(
        self, operator: Any, stream: SimulatedStream, args: Sequence[Any], kwargs: dict[str, Any], results: Any
    ) -> None:
        """Account for an operator that was just issued to a stream."""
        if self.settings is None:
            return
        self._host.launch(self.settings.launch_seconds)
        device = str(stream.device)
        tensors = [value for value in (*args, *kwargs.values(), results) if isinstance(value, Tensor)]
        moved = sum(tensor.nbytes for tensor in tensors) / self.settings.memory_bytes_per_second
        computed = flops_of(operator, args, kwargs, results) / self._flops_per_second(device, tensors)
        self._run(str(operator.overloadpacket.__name__), (device,), [stream], max(moved, computed))

    def copied(
        self, source: str, destination: str, size_bytes: int, streams: Sequence[SimulatedStream], *, pageable: bool
    ) -> None:
        """Account for a copy that was just issued: on one stream, or, between cards, on one of each."""
        if self.settings is None:
            return
        self._host.launch(self.settings.launch_seconds)
        link = self._link(source, destination)
        rate = link.pageable_bytes_per_second if pageable else link.bytes_per_second
        seconds = link.latency_seconds + size_bytes / rate
        self._run("copy", self._copy_engines(source, destination), streams, seconds, size_bytes)

    def copied_by_host(self, size_bytes: int) -> None:
        """Account for a copy within host memory, which this thread has just made."""
        if self.settings is not None:
            self._host.spend(size_bytes / self.settings.host_bytes_per_second)

    def _run(
        self,
        name: str,
        engines: tuple[str, ...],
        streams: Sequence[SimulatedStream],
        seconds: float,
        size_bytes: int = 0,
    ) -> None:
        work = self._host.work(*(stream.last for stream in streams), engines=engines, seconds=seconds)
        for stream in streams:
            stream.last = work
        if seconds > 0:
            self._done.append((work, name, streams[0].name, self._label, size_bytes))

    def _copy_engines(self, source: str, destination: str) -> tuple[str, ...]:
        assert self.settings is not None
        if self.settings.shared_copy_engines:
            ends = (source, "out"), (destination, "in")
            return tuple(f"{device} {way}" for device, way in ends if device != HOST)
        if HOST not in (source, destination) and (source, destination) not in self.settings.profile.links:
            return f"{source} > {HOST}", f"{HOST} > {destination}"
        return (f"{source} > {destination}",)

    def _link(self, source: str, destination: str) -> LinkSpeed:
        assert self.settings is not None
        links = self.settings.profile.links
        found = links.get((source, destination))
        if found is not None:
            return found
        instant = LinkSpeed(math.inf, math.inf)
        if HOST in (source, destination):
            return instant
        to_host, from_host = links.get((source, HOST), instant), links.get((HOST, destination), instant)
        rate = min(to_host.bytes_per_second, from_host.bytes_per_second)
        return LinkSpeed(rate, rate, to_host.latency_seconds + from_host.latency_seconds)

    def _flops_per_second(self, device: str, tensors: Sequence[Tensor]) -> float:
        assert self.settings is not None
        rates = self.settings.profile.flops_per_second.get(device, {})
        for tensor in tensors:
            rate = rates.get(str(tensor.dtype).removeprefix("torch."))
            if rate is not None:
                return rate
        return max(rates.values(), default=math.inf)


def flops_of(operator: Any, args: Sequence[Any], kwargs: dict[str, Any], results: Any) -> int:
    """Floating-point operations of a call, by torch's own formulas; 0 for what is no product of matrices."""
    packet = operator.overloadpacket
    if packet is aten.linear:
        return int(2 * args[0].numel() * args[1].shape[0])
    if packet is aten.matmul:
        return int(2 * results.numel() * args[0].shape[-1])
    if packet is aten.scaled_dot_product_attention:
        return int(sdpa_flop_count(args[0].shape, args[1].shape, args[2].shape))  # type: ignore[no-untyped-call]
    count = flop_registry.get(packet)
    return int(count(*args, **kwargs, out_val=results)) if count is not None else 0
