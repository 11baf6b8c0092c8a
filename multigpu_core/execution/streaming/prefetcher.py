"""Brings streamed regions into the staging ring ahead of their turn.

Two queues meet here, and events keep them apart; the host waits for neither:

    copy stream      [copy 4]──┐    [copy 5]──┐            a place is written when its last reader has computed
                        ▲      ▼       ▲      ▼
    compute stream   [2]│   [3]     [4]│   [5]             a region computes when its copy is done
                      └─┘            └─┘

Turns are counted through all steps, so the first regions of the next step are on their way while the last ones of
this step compute. After a few steps, when the ring begins again, turns repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from multigpu.multigpu_core.allocation.planner.staging_ring import Piece, staging_ring
from multigpu.multigpu_core.devices import DeviceEvent, Streams
from multigpu.multigpu_core.execution.storage.packed_layout import Layout, packed_memory

from .copy_channels import Lane
from .offloaded_module import Region


@dataclass
class Turn:
    """One region's place in a step, in the ring, and what is known of its copy."""

    region: Region
    lane: Lane
    staging: torch.Tensor
    """The place in the ring, as bytes."""
    staged: list[torch.Tensor]
    """The region's tensors over that place."""
    layout: Layout
    arena: torch.Tensor | None
    """The one piece of memory that holds all that is stored, where there is one."""
    pieces: tuple[Piece, ...]
    """What of the place is copied when."""
    copied: DeviceEvent
    computed: DeviceEvent
    versions: tuple[int, ...] = ()
    """Of the stored tensors, when they were copied: torch counts the changes in place."""
    ordered_after: tuple[int, ...] = ()
    """The versions whose writers the lane has waited for."""

    def copy(self, piece: Piece, versions: tuple[int, ...]) -> None:
        """Queue the copy of one piece, stored in these versions now; whoever has written them comes before it."""
        if versions != self.ordered_after:
            self.lane.wait_for_writers()
            self.ordered_after = versions
        begin, end = piece.begin, piece.end
        stored = [(0, self.arena[begin:end])] if self.arena is not None else self.layout.byte_pieces(begin, end)
        self.lane.copy(self.staging[begin:end], stored)


class Prefetcher:
    """The staging ring of one distributed model and the copies into it."""

    def __init__(self, compute: torch.device, streams: Streams, staging_bytes: int) -> None:
        self._compute = compute
        self._streams = streams
        self._staging_bytes = staging_bytes
        self._no_buffer = torch.empty(0, dtype=torch.uint8, device=compute)
        self._buffer = self._no_buffer
        self._turns: list[Turn] = []
        self._lanes: tuple[Lane, ...] = ()
        self._begin = 0
        self._done = 0
        self._issued = 0
        self._issued_pieces = 0
        self._is_in_order = False

    @property
    def buffer_bytes(self) -> int:
        """Bytes of the compute device that are kept for staging."""
        return self._buffer.numel()

    def arrange(self, regions: Sequence[tuple[Region, Lane]]) -> None:
        """Expect these regions, in this order, in every step from now on."""
        self.drop()
        self.wait()
        sizes = [Layout(region.tensors).size_bytes for region, _ in regions]
        ring = staging_ring(sizes, self._staging_bytes)
        if ring.size_bytes > self._buffer.numel():
            self._free_buffer()  # before there is a new one
            with torch.inference_mode(False):
                self._buffer = torch.empty(ring.size_bytes, dtype=torch.uint8, device=self._compute)
        self._lanes = tuple(dict.fromkeys(lane for _, lane in regions))
        self._turns = [
            self._make_turn(*regions[turn % len(regions)], begin, pieces)
            for turn, (begin, pieces) in enumerate(zip(ring.offsets, ring.pieces, strict=True))
        ]

    def take(self, region: Region) -> list[torch.Tensor] | None:
        """The region's tensors on the compute device, for work that the caller queues on the current stream.

        None for a region that is not expected. `give_back` follows.
        """
        is_expected = self._is_in_order and self._turn(self._done).region is region
        if not is_expected and not self._start_at(region):
            return None
        turn = self._turn(self._done)
        if self._issued == self._done:
            self._issue(len(turn.pieces), is_due=True)
        if turn.versions != turn.region.versions(turn.arena):
            turn.versions = turn.region.versions(turn.arena)  # somebody has changed the weights since
            for piece in turn.pieces:
                turn.copy(piece, turn.versions)
            turn.copied.record(turn.lane.stream)
        self._streams.current_stream(self._compute).wait_event(turn.copied)
        return turn.staged

    def give_back(self) -> None:
        """Say that the work on the region taken last is queued; its place is used for others after it."""
        self._turn(self._done).computed.record(self._streams.current_stream(self._compute))
        self._done += 1
        self._issue_ahead()

    def drop(self) -> None:
        """Forget what was copied ahead: weights have changed, or a forward was broken off."""
        self._is_in_order = False

    def wait(self) -> None:
        """Let the host wait until no copy is under way."""
        for lane in self._lanes:
            lane.stream.synchronize()

    def close(self) -> None:
        """Free the staging memory."""
        self.wait()
        self._lanes = ()
        self._free_buffer()

    def save_memory(self) -> None:
        """Keep no more from now on than the largest region needs: `arrange` follows."""
        self.wait()
        self._staging_bytes = 0
        self._free_buffer()

    def _free_buffer(self) -> None:
        self.drop()
        self._turns.clear()
        self._buffer = self._no_buffer

    def _make_turn(self, region: Region, lane: Lane, begin: int, pieces: tuple[Piece, ...]) -> Turn:
        staging = self._buffer[begin : begin + max(piece.end for piece in pieces)]
        return Turn(
            region=region,
            lane=lane,
            staging=staging,
            staged=region.staged_in(staging),
            layout=Layout(region.tensors),
            arena=packed_memory(region.tensors),
            pieces=_split(pieces, lane.most_bytes),
            copied=self._streams.Event(),
            computed=self._streams.Event(),
        )

    def _turn(self, count: int) -> Turn:
        return self._turns[count % len(self._turns)]

    def _start_at(self, region: Region) -> bool:
        """Count on from the next turn of a region that is out of turn, as if all copies before were for nothing."""
        index = self._done % len(self._turns) if self._turns else 0
        order = [*self._turns[index:], *self._turns[:index]]
        ahead = next((i for i, turn in enumerate(order) if turn.region is region), None)
        if ahead is None:
            return False
        current = self._streams.current_stream(self._compute)
        for lane in self._lanes:
            current.wait_stream(lane.stream)
        for lane in self._lanes:
            lane.wait_for_writers()
        for turn in self._turns:
            turn.ordered_after = turn.region.versions(turn.arena)
        position = self._done + ahead
        while position < self._issued:
            position += len(self._turns)
        self._begin = self._done = self._issued = position
        self._issued_pieces = 0
        self._is_in_order = True
        return True

    def _issue_ahead(self) -> None:
        """Queue every copy whose last reader has been queued, as far as that needs no wait of the host."""
        issued = -1
        while issued != self._issued:
            issued = self._issued
            pieces = self._turn(issued).pieces
            ready = self._issued_pieces
            while ready < len(pieces) and issued - pieces[ready].distance < self._done:
                ready += 1
            self._issue(ready)

    def _issue(self, until: int, *, is_due: bool = False) -> None:
        """Queue copies of the next turn's pieces that are not queued yet, up to that one.

        Unless the turn is due, a lane that would let the host wait is left for later.
        """
        turn = self._turn(self._issued)
        versions = turn.region.versions(turn.arena)
        for piece in turn.pieces[self._issued_pieces : until]:
            if not (is_due or turn.lane.is_ready()):
                return
            if self._issued_pieces == 0:
                turn.versions = versions
            last_reader = self._issued - piece.distance
            if last_reader >= self._begin:
                turn.lane.stream.wait_event(self._turn(last_reader).computed)
            turn.copy(piece, versions)
            self._issued_pieces += 1
        if self._issued_pieces == len(turn.pieces):
            turn.copied.record(turn.lane.stream)
            self._issued += 1
            self._issued_pieces = 0


def _split(pieces: Sequence[Piece], most_bytes: int | None) -> tuple[Piece, ...]:
    """The same pieces, none larger than a lane takes at once."""
    if most_bytes is None:
        return tuple(pieces)
    return tuple(
        Piece(begin, min(begin + most_bytes, piece.end), piece.distance)
        for piece in pieces
        for begin in range(piece.begin, piece.end, most_bytes)
    )
