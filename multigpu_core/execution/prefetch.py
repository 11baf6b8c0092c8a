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
from contextlib import suppress
from dataclasses import dataclass

import torch

from multigpu.multigpu_core.allocation.staging_ring import Piece, staging_ring
from multigpu.multigpu_core.devices import DeviceEvent, Streams

from .arena import Layout, packed_memory
from .lanes import Lane
from .region import Region


@dataclass
class Turn:
    """One region's place in a step, in the ring, and what is known of its copy."""

    region: Region
    lane: Lane
    staging: torch.Tensor
    """The place in the ring, as bytes."""
    staged: list[torch.Tensor]
    """The region's tensors over that place."""
    arena: torch.Tensor | None
    pieces: tuple[Piece, ...]
    """What of the place is copied when: one piece, the last one, where there is no arena."""
    copied: DeviceEvent
    computed: DeviceEvent
    versions: tuple[int, ...] = ()
    """Of the stored tensors, when they were copied: torch counts the changes in place."""


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

    def __del__(self) -> None:
        # A model may be let go as it is, right after a step: no allocator knows of the copies that are under way.
        with suppress(Exception):  # where the interpreter ends, or a device has failed, nobody uses the memory again
            self._quiesce()

    @property
    def buffer_bytes(self) -> int:
        """Bytes of the compute device that are kept for staging."""
        return self._buffer.numel()

    def arrange(self, regions: Sequence[tuple[Region, Lane]]) -> None:
        """Expect these regions, in this order, in every step from now on."""
        self.drop()
        self._quiesce()
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
            self._issue(len(turn.pieces))
        if turn.versions != turn.region.versions(turn.arena):
            turn.lane.wait_for_writers()  # somebody has changed the weights since
            self._copy(turn, 0, turn.staging.numel())
            turn.copied.record(turn.lane.stream)
            turn.versions = turn.region.versions(turn.arena)
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

    def close(self) -> None:
        """Free the staging memory."""
        self._quiesce()
        self._lanes = ()
        self._free_buffer()

    def save_memory(self) -> None:
        """Keep no more from now on than the largest region needs: `arrange` follows."""
        self._quiesce()
        self._staging_bytes = 0
        self._free_buffer()

    def _free_buffer(self) -> None:
        self.drop()
        self._turns.clear()
        self._buffer = self._no_buffer

    def _make_turn(self, region: Region, lane: Lane, begin: int, pieces: tuple[Piece, ...]) -> Turn:
        size_bytes = max(piece.end for piece in pieces)
        staging = self._buffer[begin : begin + size_bytes]
        arena = packed_memory(region.tensors)
        if arena is None:
            pieces = (Piece(0, size_bytes, pieces[-1].distance),)
        return Turn(
            region=region,
            lane=lane,
            staging=staging,
            staged=region.staged_in(staging),
            arena=arena,
            pieces=pieces,
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
        position = self._done + ahead
        while position < self._issued:
            position += len(self._turns)
        self._begin = self._done = self._issued = position
        self._issued_pieces = 0
        self._is_in_order = True
        return True

    def _issue_ahead(self) -> None:
        """Queue every copy whose last reader has been queued."""
        while True:
            pieces = self._turn(self._issued).pieces
            ready = self._issued_pieces
            while ready < len(pieces) and self._issued - pieces[ready].distance < self._done:
                ready += 1
            self._issue(ready)
            if ready < len(pieces):
                return

    def _issue(self, until: int) -> None:
        """Queue copies of the next turn's pieces that are not queued yet, up to that one."""
        turn = self._turn(self._issued)
        for piece in turn.pieces[self._issued_pieces : until]:
            if self._issued_pieces == 0:
                turn.versions = turn.region.versions(turn.arena)
            last_reader = self._issued - piece.distance
            if last_reader >= self._begin:
                turn.lane.stream.wait_event(self._turn(last_reader).computed)
            self._copy(turn, piece.begin, piece.end)
            self._issued_pieces += 1
        if until == len(turn.pieces):
            turn.copied.record(turn.lane.stream)
            self._issued += 1
            self._issued_pieces = 0

    def _copy(self, turn: Turn, begin: int, end: int) -> None:
        arena = turn.arena[begin:end] if turn.arena is not None else None
        turn.lane.copy(turn.staging[begin:end], arena, turn.region.tensors)

    def _quiesce(self) -> None:
        """Let the host wait until nothing is under way."""
        for lane in self._lanes:
            lane.stream.synchronize()
