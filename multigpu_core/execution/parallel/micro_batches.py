"""Two halves of a step on two or more cards at once: while one half computes on one card, the other does on another.

Each half is a whole forward on streams of its own, one for each card. A chunk of the second waits for the same chunk of
the first, so that a card does one after the other:

    npu:0   [A 1]  [B 1]  [A 3]  [B 3]
    npu:1          [A 2]  [B 2]  [A 4]  [B 4]

The host issues chunks in the order A 1, B 1, A 2, B 2, and so on (alternation.py): no card waits until the host has
issued a whole half. With v chunks on each of two equal cards a pair of halves takes 1 + 1/(2v) times what one takes on
one card, and no weight is held twice.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from multigpu.multigpu_core.devices import DeviceRegistry
from multigpu.multigpu_core.devices.backends.streams import DeviceEvent, DeviceStream, Streams

from .alternation import Alternation
from .side_effects import SideEffects
from .thread_state import is_portable, portable_state

T = TypeVar("T")
Queues = dict[torch.device, DeviceStream]


@dataclass(eq=False)
class _Half:
    """One half of the step that is issued now."""

    index: int
    queues: Queues
    follows: dict[torch.device, list[DeviceEvent]]
    """The ends of the other half's chunks that this half has still to wait for."""
    ends: dict[torch.device, list[DeviceEvent]] = field(default_factory=dict)
    has_begun: bool = False


class MicroBatches:
    """The streams of both halves, and which chunks of the first half the second has to follow.

    The first of `devices` is the compute device. `settle` undoes what a half that was broken off left behind.
    """

    def __init__(
        self, devices: Mapping[torch.device, Streams], module: nn.Module, settle: Callable[[], object]
    ) -> None:
        self._devices = dict(devices)
        self._module = module
        self._settle = settle
        self._queues: tuple[Queues, ...] = tuple(
            {device: streams.Stream(device=device) for device, streams in devices.items()} for _ in range(2)
        )
        self._half: _Half | None = None
        self._alternation: Alternation[Any] | None = None
        self._may_alternate: dict[Hashable, bool] = {}

    @property
    def index(self) -> int:
        """The half that is being issued, 0 or 1; 0 outside of `run`."""
        return self._half.index if self._half is not None else 0

    def run(self, micro_batches: Sequence[Callable[[], T]], kind: Hashable, *, in_turn: bool = False) -> list[T]:
        """The results of two forwards, ready for who uses the streams that are current now.

        The first time that a kind of forward is run (its shapes, say), one half follows the other: what the model
        computes once and keeps is then there for both. If the second leaves something behind even so, this kind's
        halves are always issued one after the other, and so they are with `in_turn` or in a state of torch that cannot
        be taken along to another thread. Errors are raised when both halves have ended.
        """
        current = {device: streams.current_stream(device) for device, streams in self._devices.items()}
        for queues in self._queues:
            for device, queue in queues.items():
                queue.wait_stream(current[device])
        first = _Half(0, self._queues[0], follows={})
        second = _Half(1, self._queues[1], follows=first.ends)
        issues = [
            partial(self._issue, half, forward) for half, forward in zip((first, second), micro_batches, strict=True)
        ]
        try:
            if kind not in self._may_alternate:
                return self._run_first_time(issues, kind)
            if in_turn or not self._may_alternate[kind] or not is_portable():
                return [issue() for issue in issues]
            return self._run_alternately(*issues)
        finally:
            self._half = self._alternation = None
            for queues in self._queues:
                for device, queue in queues.items():
                    current[device].wait_stream(queue)

    def begin_chunk(self, device: torch.device, *, hands_over: bool = True) -> None:
        """The half that is being issued goes on on this card, when the other half has been issued as far."""
        half = self._half
        if half is None:
            return
        if half.has_begun and hands_over and self._alternation is not None:
            try:
                self._alternation.hand_over()
            finally:
                self._half = half
        half.has_begun = True
        if half.follows.get(device):
            half.queues[device].wait_event(half.follows[device].pop(0))

    def end_chunk(self, device: torch.device) -> None:
        """The half that is being issued leaves this card."""
        if self._half is not None:
            event = self._devices[device].Event()
            event.record(self._half.queues[device])
            self._half.ends.setdefault(device, []).append(event)

    def _run_first_time(self, issues: Sequence[Callable[[], T]], kind: Hashable) -> list[T]:
        results = [issues[0]()]
        for device, queue in self._queues[1].items():
            queue.wait_stream(self._queues[0][device])
        effects = SideEffects(self._module, self._devices)
        results.append(issues[1]())
        self._may_alternate[kind] = not effects.have_happened()
        return results

    def _run_alternately(self, first: Callable[[], T], second: Callable[[], T]) -> list[T]:
        enter_state = portable_state({"cpu", *(device.type for device in self._devices)})

        def second_in_this_state() -> T:
            with enter_state():
                return second()

        self._alternation = Alternation()
        return self._alternation.run(first, second_in_this_state)

    def _issue(self, half: _Half, forward: Callable[[], T]) -> T:
        self._half = half
        with ExitStack() as scopes:
            for device, queue in reversed(
                half.queues.items()
            ):  # each makes its device current, the compute device last
                scopes.enter_context(self._devices[device].stream(queue))
            try:
                return forward()
            except BaseException:
                self._half = half
                self._settle()  # on this half's thread and streams
                raise


def micro_batches_on(
    registry: DeviceRegistry, devices: Sequence[str], module: nn.Module, settle: Callable[[], object]
) -> MicroBatches | None:
    """Micro-batches on these devices, the compute device first; None for fewer than two, or if one has no streams."""
    offered: dict[torch.device, Any] = {registry.torch_device(name): registry.streams(name) for name in devices}
    if len(offered) < 2 or not all(offered.values()):
        return None
    return MicroBatches(offered, module, settle)
