"""Two halves of a step on two or more cards at once: while one half computes on one card, the other does on another.

Each half is a whole forward on streams of its own, one for each card. The host issues the first and then the second; a
chunk of the second waits for the same chunk of the first, so that a card does one after the other:

    npu:0   [A 1]  [B 1]  [A 3]  [B 3]
    npu:1          [A 2]  [B 2]  [A 4]  [B 4]

With v chunks on each of two equal cards a pair of halves takes 1 + 1/(2v) times what one takes on one card, and no
weight is held twice.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import torch

from multigpu.multigpu_core.devices import DeviceRegistry
from multigpu.multigpu_core.devices.streams import DeviceEvent, DeviceStream, Streams

T = TypeVar("T")
Queues = dict[torch.device, DeviceStream]


class PingPong:
    """The streams of both halves, and which chunks of the first half the second has to follow.

    The first of `devices` is the compute device.
    """

    def __init__(self, devices: Mapping[torch.device, Streams]) -> None:
        self._devices = dict(devices)
        self._halves: tuple[Queues, Queues] = tuple(  # type: ignore[assignment]
            {device: streams.Stream(device=device) for device, streams in devices.items()} for _ in range(2)
        )
        self._chunks: dict[torch.device, list[DeviceEvent]] = {}
        self._behind: dict[torch.device, list[DeviceEvent]] = {}
        self._running: Queues | None = None
        self._seen: set[Hashable] = set()

    def run(self, halves: Sequence[Callable[[], T]], kind: Hashable) -> list[T]:
        """The results of two forwards, ready for who uses the streams that are current now.

        The first time that a kind of forward is run (its shapes, say), one half follows the other: what the model
        computes once and keeps is then there for both.
        """
        current = {device: streams.current_stream(device) for device, streams in self._devices.items()}
        results: list[T] = []
        try:
            for half, queues in zip(halves, self._halves, strict=True):
                for device, queue in queues.items():
                    queue.wait_stream(current[device])
                    if results and kind not in self._seen:
                        queue.wait_stream(self._halves[0][device])
                results.append(self._issue(half, queues))
            self._seen.add(kind)
        finally:
            self._running = None
            self._behind = {}
            for queues in self._halves:
                for device, queue in queues.items():
                    current[device].wait_stream(queue)
        return results

    def begin_chunk(self, device: torch.device) -> None:
        """The half that is being issued goes on on this card."""
        events = self._behind.get(device)
        if self._running is not None and events:
            self._running[device].wait_event(events.pop(0))

    def end_chunk(self, device: torch.device) -> None:
        """The half that is being issued leaves this card."""
        if self._running is not None:
            event = self._devices[device].Event()
            event.record(self._running[device])
            self._chunks.setdefault(device, []).append(event)

    def _issue(self, half: Callable[[], T], queues: Queues) -> T:
        self._behind, self._chunks = self._chunks, {}
        self._running = queues
        with ExitStack() as scopes:
            for device, queue in reversed(queues.items()):  # each makes its device current, the compute device last
                scopes.enter_context(self._devices[device].stream(queue))
            return half()


def ping_pong_on(registry: DeviceRegistry, devices: Sequence[str]) -> PingPong | None:
    """Ping-pong on these devices, the compute device first; None for fewer than two, or where one has no streams."""
    offered: dict[torch.device, Any] = {registry.torch_device(name): registry.streams(name) for name in devices}
    if len(offered) < 2 or not all(offered.values()):
        return None
    return PingPong(offered)
