"""Prefetch offloaded modules into the staging buffer.

Two queues meet here, and events keep them apart; the host waits for neither:

    copy stream      [copy 4]──┐    [copy 5]──┐            a place is written when its last reader has computed
                        ▲      ▼       ▲      ▼
    compute stream   [2]│   [3]     [4]│   [5]             an offloaded module computes when its copy is done
                      └─┘            └─┘

Turns are counted through all steps, so the first offloaded modules of the next step are being copied while the last
ones of this step compute. After a few steps, when the ring begins again, turns repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from multigpu.multigpu_core.allocation.planner.staging_ring import Segment, staging_ring
from multigpu.multigpu_core.devices import DeviceEvent, Streams
from multigpu.multigpu_core.execution.storage.packed_layout import Layout, packed_memory

from .copy_channels import CopyChannel
from .offloaded_module import OffloadedModule

_OUTDATED = (-1,)
"""Versions that no tensors have."""


@dataclass
class Turn:
    """One offloaded module's place in a step, in the ring, and what is known of its copy."""

    offloaded: OffloadedModule
    channel: CopyChannel
    staging: torch.Tensor
    """The place in the ring, as bytes."""
    staged: list[torch.Tensor]
    """The offloaded module's tensors over that place."""
    layout: Layout
    packed: torch.Tensor | None
    """The one piece of memory that holds all that is stored, where there is one."""
    segments: tuple[Segment, ...]
    """What of the place is copied when."""
    copied: DeviceEvent
    computed: DeviceEvent
    versions: tuple[int, ...] = ()
    """Of the stored tensors, when they were copied: torch counts the changes in place."""
    ordered_after: tuple[int, ...] = ()
    """The versions whose writers the copy channel has waited for."""

    def copy(self, segment: Segment, versions: tuple[int, ...]) -> None:
        """Queue the copy of one piece, stored in these versions now; whoever has written them comes before it."""
        if versions != self.ordered_after:
            self.channel.wait_for_writers()
            self.ordered_after = versions
        begin, end = segment.begin, segment.end
        stored = [(0, self.packed[begin:end])] if self.packed is not None else self.layout.byte_segments(begin, end)
        self.channel.copy(self.staging[begin:end], stored)


class Prefetcher:
    """The staging ring of one distributed model and the copies into it."""

    def __init__(self, compute: torch.device, streams: Streams, staging_bytes: int) -> None:
        self._compute = compute
        self._streams = streams
        self._staging_bytes = staging_bytes
        self._no_buffer = torch.empty(0, dtype=torch.uint8, device=compute)
        self._buffer = self._no_buffer
        self._turns: list[Turn] = []
        self._segments: tuple[tuple[Segment, ...], ...] = ()
        """Of each turn, as the ring has them."""
        self._channels: tuple[CopyChannel, ...] = ()
        self._begin = 0
        self._done = 0
        self._issued = 0
        self._issued_segments = 0
        self._is_in_order = False

    @property
    def buffer_bytes(self) -> int:
        """Bytes of the compute device that are kept for staging."""
        return self._buffer.numel()

    def arrange(self, offloaded_modules: Sequence[tuple[OffloadedModule, CopyChannel]]) -> None:
        """Expect these offloaded modules, in this order, in every step from now on."""
        self.drop()
        self.wait()
        sizes = [Layout(offloaded.tensors).size_bytes for offloaded, _ in offloaded_modules]
        ring = staging_ring(sizes, self._staging_bytes)
        if ring.size_bytes > self._buffer.numel():
            self._free_buffer()  # before there is a new one
            with torch.inference_mode(False):
                self._buffer = torch.empty(ring.size_bytes, dtype=torch.uint8, device=self._compute)
        self._channels = tuple(dict.fromkeys(channel for _, channel in offloaded_modules))
        self._segments = ring.segments
        self._turns = [
            self._make_turn(*offloaded_modules[turn % len(offloaded_modules)], self._place(begin, segments), segments)
            for turn, (begin, segments) in enumerate(zip(ring.offsets, ring.segments, strict=True))
        ]

    def renew(self, offloaded: OffloadedModule, channel: CopyChannel) -> bool:
        """Copy what an offloaded module stores now, in all of its turns from here on; what was copied is not used.

        False, with nothing done, where that does not fit in the place of what was stored.
        """
        turns = [index for index, turn in enumerate(self._turns) if turn.offloaded is offloaded]
        size_bytes = Layout(offloaded.tensors).size_bytes
        if any(self._turns[index].staging.numel() != size_bytes for index in turns):
            return False
        self.wait()  # copies from what was stored may be under way, and nobody else may keep it alive
        self._channels = tuple(dict.fromkeys((*self._channels, channel)))
        for index in turns:
            former = self._turns[index]
            turn = self._make_turn(offloaded, channel, former.staging, self._segments[index])
            self._turns[index] = replace(turn, copied=former.copied, computed=former.computed, versions=_OUTDATED)
        if turns and self._turn(self._issued).offloaded is offloaded:
            self._issued_segments = 0
        if turns:
            channel.wait_for_writers()
        return True

    def take(self, offloaded: OffloadedModule) -> list[torch.Tensor] | None:
        """The offloaded module's tensors on the compute device, for work that the caller queues on the current stream.

        None for an offloaded module that is not expected. `give_back` follows.
        """
        is_expected = self._is_in_order and self._turn(self._done).offloaded is offloaded
        if not is_expected and not self._start_at(offloaded):
            return None
        turn = self._turn(self._done)
        if self._issued == self._done:
            self._issue(len(turn.segments), is_due=True)
        if turn.versions != turn.offloaded.versions(turn.packed):
            turn.versions = turn.offloaded.versions(turn.packed)  # somebody has changed the weights since
            for segment in turn.segments:
                turn.copy(segment, turn.versions)
            turn.copied.record(turn.channel.stream)
        self._streams.current_stream(self._compute).wait_event(turn.copied)
        return turn.staged

    def give_back(self) -> None:
        """Say that the work on the offloaded module taken last is queued; its place is used for others after it."""
        self._turn(self._done).computed.record(self._streams.current_stream(self._compute))
        self._done += 1
        self._issue_ahead()

    def drop(self) -> None:
        """Forget what was copied ahead: weights have changed, or a forward was broken off."""
        self._is_in_order = False

    def wait(self) -> None:
        """Let the host wait until no copy is under way."""
        for channel in self._channels:
            channel.stream.synchronize()

    def close(self) -> None:
        """Free the staging memory."""
        self.wait()
        self._channels = ()
        self._free_buffer()

    def save_memory(self) -> None:
        """Keep no more from now on than the largest offloaded module needs: `arrange` follows."""
        self.wait()
        self._staging_bytes = 0
        self._free_buffer()

    def _free_buffer(self) -> None:
        self.drop()
        self._turns.clear()
        self._buffer = self._no_buffer

    def _place(self, begin: int, segments: tuple[Segment, ...]) -> torch.Tensor:
        return self._buffer[begin : begin + max(segment.end for segment in segments)]

    def _make_turn(
        self, offloaded: OffloadedModule, channel: CopyChannel, staging: torch.Tensor, segments: tuple[Segment, ...]
    ) -> Turn:
        return Turn(
            offloaded=offloaded,
            channel=channel,
            staging=staging,
            staged=offloaded.staged_in(staging),
            layout=Layout(offloaded.tensors),
            packed=packed_memory(offloaded.tensors),
            segments=_split(segments, channel.most_bytes),
            copied=self._streams.Event(),
            computed=self._streams.Event(),
        )

    def _turn(self, count: int) -> Turn:
        return self._turns[count % len(self._turns)]

    def _start_at(self, offloaded: OffloadedModule) -> bool:
        """Continue from the next turn of a module that is out of turn, as if the copies before it were for nothing."""
        index = self._done % len(self._turns) if self._turns else 0
        order = [*self._turns[index:], *self._turns[:index]]
        ahead = next((i for i, turn in enumerate(order) if turn.offloaded is offloaded), None)
        if ahead is None:
            return False
        current = self._streams.current_stream(self._compute)
        for channel in self._channels:
            current.wait_stream(channel.stream)
        for channel in self._channels:
            channel.wait_for_writers()
        for turn in self._turns:
            turn.ordered_after = turn.offloaded.versions(turn.packed)
        position = self._done + ahead
        while position < self._issued:
            position += len(self._turns)
        self._begin = self._done = self._issued = position
        self._issued_segments = 0
        self._is_in_order = True
        return True

    def _issue_ahead(self) -> None:
        """Queue every copy whose last reader has been queued, as far as that needs no wait of the host."""
        issued = -1
        while issued != self._issued:
            issued = self._issued
            segments = self._turn(issued).segments
            ready = self._issued_segments
            while ready < len(segments) and issued - segments[ready].distance < self._done:
                ready += 1
            self._issue(ready)

    def _issue(self, until: int, *, is_due: bool = False) -> None:
        """Queue copies of the next turn's pieces that are not queued yet, up to that one.

        Unless the turn is due, a copy channel that would let the host wait is left for later.
        """
        turn = self._turn(self._issued)
        versions = turn.offloaded.versions(turn.packed)
        for segment in turn.segments[self._issued_segments : until]:
            if not (is_due or turn.channel.is_ready()):
                return
            if self._issued_segments == 0:
                turn.versions = versions
            last_reader = self._issued - segment.distance
            if last_reader >= self._begin:
                turn.channel.stream.wait_event(self._turn(last_reader).computed)
            turn.copy(segment, versions)
            self._issued_segments += 1
        if self._issued_segments == len(turn.segments):
            turn.copied.record(turn.channel.stream)
            self._issued += 1
            self._issued_segments = 0


def _split(segments: Sequence[Segment], most_bytes: int | None) -> tuple[Segment, ...]:
    """The same pieces, none larger than a copy channel takes at once."""
    if most_bytes is None:
        return tuple(segments)
    return tuple(
        Segment(begin, min(begin + most_bytes, segment.end), segment.distance)
        for segment in segments
        for begin in range(segment.begin, segment.end, most_bytes)
    )
