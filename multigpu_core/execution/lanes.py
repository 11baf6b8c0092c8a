"""Ways by which stored weights reach the compute device, each with a copy stream of its own.

A lane is a queue: its copies run one after the other, beside the compute stream, and beside those of other lanes. The
host waits for none of them but on the bounce lane.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Protocol

import torch

from multigpu.multigpu_core.devices import DeviceEvent, DeviceStream, Streams

from .arena import Layout


class Lane(Protocol):
    """One source's way to the compute device. What waits for a copy waits for an event of the lane's `stream`."""

    stream: DeviceStream

    def wait_for_writers(self) -> None:
        """Let what is queued from now on wait for all that the current streams of both ends were given so far."""

    def copy(self, staging: torch.Tensor, arena: torch.Tensor | None, tensors: Sequence[torch.Tensor]) -> None:
        """Queue a copy of `tensors`, which fill `arena` where there is one, to where they belong in `staging`."""


class ChunkRing:
    """Chunks of page-locked memory in turn, each with the event after which it is free again; lanes may share them."""

    def __init__(self, streams: Streams, chunks: Sequence[torch.Tensor]) -> None:
        self._chunks = [(chunk, streams.Event()) for chunk in chunks]
        self._next = 0

    def pieces(self, size_bytes: int) -> Iterator[tuple[int, torch.Tensor, DeviceEvent]]:
        begin = 0
        while begin < size_bytes:
            chunk, is_free = self._chunks[self._next]
            self._next = (self._next + 1) % len(self._chunks)
            yield begin, chunk[: size_bytes - begin], is_free
            begin += chunk.numel()


class DirectLane:
    """One copy from page-locked host memory, or from another card, whose driver reads it by peer access.

    `source_stream` is a stream of that card: torch queues copies between cards on both.
    """

    def __init__(self, streams: Streams, compute: torch.device, source_stream: DeviceStream | None = None) -> None:
        self.stream = streams.Stream(device=compute)
        self._streams = streams
        self._source_stream = source_stream

    def wait_for_writers(self) -> None:
        _wait_for_current(self._streams, self.stream)
        if self._source_stream is not None:
            _wait_for_current(self._streams, self._source_stream)

    def copy(self, staging: torch.Tensor, arena: torch.Tensor | None, tensors: Sequence[torch.Tensor]) -> None:
        with ExitStack() as stack:
            if self._source_stream is not None:
                stack.enter_context(self._streams.stream(self._source_stream))
            stack.enter_context(self._streams.stream(self.stream))
            for source, destination in _contiguous_pieces(staging, arena, tensors):
                destination.copy_(source, non_blocking=True)


class TwoHopLane:
    """From a card that the compute device cannot read: through page-locked host memory, in chunks that overlap."""

    def __init__(self, streams: Streams, compute: torch.device, source: torch.device, chunks: ChunkRing) -> None:
        self.stream = streams.Stream(device=compute)
        self._source_stream = streams.Stream(device=source)
        self._streams = streams
        self._chunks = chunks

    def wait_for_writers(self) -> None:
        _wait_for_current(self._streams, self.stream)
        _wait_for_current(self._streams, self._source_stream)

    def copy(self, staging: torch.Tensor, arena: torch.Tensor | None, tensors: Sequence[torch.Tensor]) -> None:
        with self._streams.stream(self._source_stream):
            for source, destination in _contiguous_pieces(staging, arena, tensors):
                for begin, chunk, is_free in self._chunks.pieces(source.numel()):
                    end = begin + chunk.numel()
                    self._source_stream.wait_event(is_free)
                    chunk.copy_(source[begin:end], non_blocking=True)
                    arrived = self._streams.Event()
                    arrived.record(self._source_stream)
                    self.stream.wait_event(arrived)
                    with self._streams.stream(self.stream):
                        destination[begin:end].copy_(chunk, non_blocking=True)
                    is_free.record(self.stream)


class BounceLane:
    """From ordinary host memory: the host copies it to page-locked chunks first, and waits where none is free."""

    def __init__(self, streams: Streams, compute: torch.device, chunks: ChunkRing) -> None:
        self.stream = streams.Stream(device=compute)
        self._streams = streams
        self._chunks = chunks

    def wait_for_writers(self) -> None:
        _wait_for_current(self._streams, self.stream)

    def copy(self, staging: torch.Tensor, arena: torch.Tensor | None, tensors: Sequence[torch.Tensor]) -> None:
        for source, destination in _contiguous_pieces(staging, arena, tensors):
            for begin, chunk, is_free in self._chunks.pieces(source.numel()):
                end = begin + chunk.numel()
                is_free.synchronize()
                chunk.copy_(source[begin:end])
                with self._streams.stream(self.stream):
                    destination[begin:end].copy_(chunk, non_blocking=True)
                is_free.record(self.stream)


def _contiguous_pieces(
    staging: torch.Tensor, arena: torch.Tensor | None, tensors: Sequence[torch.Tensor]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Source and destination as bytes."""
    if arena is not None:
        yield arena, staging
        return
    yield from Layout(tensors).byte_pieces(staging)


def _wait_for_current(streams: Streams, stream: DeviceStream) -> None:
    stream.wait_stream(streams.current_stream(stream.device))
