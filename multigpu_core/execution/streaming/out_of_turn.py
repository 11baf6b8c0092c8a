"""Copies of offloaded modules that were not prefetched, made when they are needed, on the stream that computes."""

from __future__ import annotations

import torch

from multigpu.multigpu_core.devices import DeviceEvent, DeviceStream, Streams
from multigpu.multigpu_core.execution.device_copies import DeviceCopies

from .offloaded_module import OffloadedModule


class OutOfTurnCopies:
    """Makes them, and knows how far they are: what they are copied from may be freed only when they are done."""

    def __init__(self, compute: torch.device, streams: Streams | None, device_copies: DeviceCopies) -> None:
        self._compute = compute
        self._streams = streams
        self._device_copies = device_copies
        self._last: dict[DeviceStream, DeviceEvent] = {}
        """By stream; it comes after all copies on that stream."""

    def of(self, offloaded: OffloadedModule) -> list[torch.Tensor]:
        """Fresh copies of an offloaded module's tensors, for work that is queued on the current stream from now on."""
        if self._streams is None:  # Apple's may read what has been freed since: there the host waits
            return offloaded.staged_on(self._compute, non_blocking=False)
        with self._device_copies.beside(offloaded.device, self._compute):
            copies = offloaded.staged_on(self._compute, non_blocking=True)
        stream = self._streams.current_stream(self._compute)
        if stream not in self._last:
            self._last[stream] = self._streams.Event()
        self._last[stream].record(stream)
        return copies

    def wait(self) -> None:
        """Let the host wait until none is under way."""
        while self._last:
            self._last.popitem()[1].synchronize()
