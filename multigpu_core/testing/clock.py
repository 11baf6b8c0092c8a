"""Virtual time of simulated devices: the same figure on every machine, whatever the speed of that machine.

Work is placed on *engines*, of which each does one thing at a time: a device's compute, and each direction of a link.
It starts when its stream has come to it, when the host has issued it, and when the engine has done all that was ready
earlier (schedule.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from multigpu.multigpu_core.devices import HardwareProfile, LinkSpeed

from .schedule import Moment
from .streams import Host, SimulatedStream

aten = torch.ops.aten
HOST = "cpu"


@dataclass(frozen=True)
class ClockSettings:
    """How fast the simulated machine is.

    A link that the profile lacks is that through the host, or instantaneous. `memory_bytes_per_second` bounds
    operators that are no matrix products; `launch_seconds` is what the host takes to issue one.
    """

    profile: HardwareProfile
    memory_bytes_per_second: float = math.inf
    launch_seconds: float = 0.0


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
        self._label = ""
        self._traced: list[tuple[Moment, Span]] = []
        self.settings: ClockSettings | None = None

    @property
    def now_seconds(self) -> float:
        """The host's time. Synchronize a device first to know when its work is done."""
        return self._host.seconds

    def start(self, settings: ClockSettings) -> None:
        """Begin at zero, with these speeds and an empty trace."""
        self.settings = settings
        self._host.schedule.restart()
        self._host.seconds = 0.0
        self._traced.clear()

    @property
    def trace(self) -> tuple[Span, ...]:
        """What was done since the start, in the order in which it was issued."""
        seconds_of = self._host.schedule.seconds_of
        ends = [(seconds_of(moment), moment, span) for moment, span in self._traced]
        return tuple(replace(span, start_seconds=moment.start) for _, moment, span in ends)

    def forget(self) -> None:
        """Empty the trace."""
        self._traced.clear()

    def stop(self) -> None:
        """Tell no time any more."""
        self.settings = None

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
        self._host.seconds += self.settings.launch_seconds
        device = str(stream.device)
        tensors = [value for value in (*args, *kwargs.values(), results) if isinstance(value, Tensor)]
        moved = sum(tensor.nbytes for tensor in tensors) / self.settings.memory_bytes_per_second
        computed = flops_of(operator, args, kwargs, results) / self._flops_per_second(device, tensors)
        self._run(str(operator.overloadpacket.__name__), [device], stream, max(moved, computed))

    def copied(
        self, source: str, destination: str, size_bytes: int, streams: Sequence[SimulatedStream], *, pageable: bool
    ) -> None:
        """Account for a copy that was just issued: on one stream, or, between cards, on one of each."""
        if self.settings is None:
            return
        self._host.seconds += self.settings.launch_seconds
        link = self._link(source, destination)
        rate = link.pageable_bytes_per_second if pageable else link.bytes_per_second
        seconds = link.latency_seconds + size_bytes / rate
        engines = [f"{source} > {destination}"]
        if HOST not in (source, destination) and (source, destination) not in self.settings.profile.links:
            engines = [f"{source} > {HOST}", f"{HOST} > {destination}"]
        first, *others = streams
        for other in others:
            first.wait_stream(other)
        self._run("copy", engines, first, seconds, size_bytes)
        for other in others:
            other.wait_stream(first)

    def _run(
        self, name: str, engines: Sequence[str], stream: SimulatedStream, seconds: float, size_bytes: int = 0
    ) -> None:
        moment = self._host.schedule.add((stream.done,), self._host.seconds, engines, seconds)
        stream.done = moment
        if seconds > 0:
            span = Span(name, engines[0], stream.name, self._label, 0.0, seconds, size_bytes)
            self._traced.extend((moment, replace(span, engine=engine)) for engine in engines)

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
