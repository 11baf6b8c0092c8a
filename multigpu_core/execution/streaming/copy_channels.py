"""Ways by which stored weights reach the compute device, each on a copy stream.

A copy channel is a queue: its copies run one after the other, beside the compute stream, and beside those of other
copy channels. The host waits for none of them but on the bounce channel, and there only for an offloaded module
that is needed at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Protocol

import torch

from multigpu.multigpu_core.devices import DeviceEvent, DeviceStream, Streams

Sources = Iterable[tuple[int, torch.Tensor]]
"""Stored bytes, each with its position in the piece of staging memory that is copied to."""


class CopyChannel(Protocol):
    """One source's way to the compute device. What waits for a copy waits for an event of its `stream`."""

    stream: DeviceStream
    most_bytes: int | None
    """The most that one copy takes; None for any number."""

    def wait_for_writers(self) -> None:
        """Let what is queued from now on wait for all that the current streams of both ends were given so far."""

    def is_ready(self) -> bool:
        """Whether a copy can be queued without a wait of the host."""

    def copy(self, staging: torch.Tensor, sources: Sources) -> None:
        """Queue a copy of stored bytes to where they belong in a piece of staging memory."""


class ChunkRing:
    """Chunks of pinned memory in turn, each with the event after which it is free again; channels may share them."""

    def __init__(self, streams: Streams, chunks: Sequence[torch.Tensor]) -> None:
        self._chunks = [(chunk, streams.Event()) for chunk in chunks]
        self._next = 0
        self.chunk_bytes = min(chunk.numel() for chunk in chunks)

    def is_free(self) -> bool:
        """Whether the next chunk is."""
        return self._chunks[self._next][1].query()

    def take(self) -> tuple[torch.Tensor, DeviceEvent]:
        chunk = self._chunks[self._next]
        self._next = (self._next + 1) % len(self._chunks)
        return chunk

    def segments(self, size_bytes: int) -> Iterator[tuple[int, torch.Tensor, DeviceEvent]]:
        begin = 0
        while begin < size_bytes:
            chunk, is_free = self.take()
            yield begin, chunk[: size_bytes - begin], is_free
            begin += chunk.numel()


class DirectChannel:
    """One copy from pinned host memory, or from another card, whose driver reads it by peer access.

    `source_stream` is a stream of that card: torch queues copies between cards on both.
    """

    most_bytes: int | None = None

    def __init__(self, streams: Streams, stream: DeviceStream, source_stream: DeviceStream | None = None) -> None:
        self.stream = stream
        self._streams = streams
        self._source_stream = source_stream

    def wait_for_writers(self) -> None:
        _wait_for_current(self._streams, self.stream)
        if self._source_stream is not None:
            _wait_for_current(self._streams, self._source_stream)

    def is_ready(self) -> bool:
        return True

    def copy(self, staging: torch.Tensor, sources: Sources) -> None:
        with ExitStack() as stack:
            if self._source_stream is not None:
                stack.enter_context(self._streams.stream(self._source_stream))
            stack.enter_context(self._streams.stream(self.stream))
            for position, source in sources:
                is_all = source.numel() == staging.numel()
                place = staging if is_all else staging[position : position + source.numel()]
                place.copy_(source, non_blocking=True)


class TwoHopChannel:
    """From a card that the compute device cannot read: through pinned host memory, in chunks that overlap."""

    most_bytes: int | None = None

    def __init__(self, streams: Streams, stream: DeviceStream, source_stream: DeviceStream, chunks: ChunkRing) -> None:
        self.stream = stream
        self._source_stream = source_stream
        self._streams = streams
        self._chunks = chunks

    def wait_for_writers(self) -> None:
        _wait_for_current(self._streams, self.stream)
        _wait_for_current(self._streams, self._source_stream)

    def is_ready(self) -> bool:
        return True

    def copy(self, staging: torch.Tensor, sources: Sources) -> None:
        with self._streams.stream(self._source_stream):
            for position, source in sources:
                destination = staging[position : position + source.numel()]
                for begin, chunk, is_free in self._chunks.segments(source.numel()):
                    end = begin + chunk.numel()
                    self._source_stream.wait_event(is_free)
                    chunk.copy_(source[begin:end], non_blocking=True)
                    arrived = self._streams.Event()
                    arrived.record(self._source_stream)
                    self.stream.wait_event(arrived)
                    with self._streams.stream(self.stream):
                        destination[begin:end].copy_(chunk, non_blocking=True)
                    is_free.record(self.stream)


class BounceChannel:
    """From ordinary host memory: the host copies it to pinned chunks first.

    Ahead of time only as many chunks are filled as are free. For an offloaded module that is needed at once the host
    waits for the next free one: nobody else can copy from ordinary memory, and the device has nothing to compute
    before that.
    """

    def __init__(self, streams: Streams, stream: DeviceStream, chunks: ChunkRing) -> None:
        self.stream = stream
        self.most_bytes: int | None = chunks.chunk_bytes
        self._streams = streams
        self._chunks = chunks

    def wait_for_writers(self) -> None:
        _wait_for_current(self._streams, self.stream)

    def is_ready(self) -> bool:
        return self._chunks.is_free()

    def copy(self, staging: torch.Tensor, sources: Sources) -> None:
        chunk, is_free = self._chunks.take()
        is_free.synchronize()
        for position, source in sources:
            chunk[position : position + source.numel()].copy_(source)
        with self._streams.stream(self.stream):
            staging.copy_(chunk[: staging.numel()], non_blocking=True)
        is_free.record(self.stream)


def _wait_for_current(streams: Streams, stream: DeviceStream) -> None:
    stream.wait_stream(streams.current_stream(stream.device))
