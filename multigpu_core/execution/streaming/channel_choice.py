"""Choose the channel by which stored tensors reach the compute device."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
import torch

from multigpu.multigpu_core.allocation.planner.staging_ring import ALIGNMENT
from multigpu.multigpu_core.devices import DeviceRegistry, Streams
from multigpu.multigpu_core.execution.storage.pinned_memory import PinnedMemory
from multigpu.multigpu_core.execution.storage.tensor_parts import parts_of

from .copy_channels import BounceChannel, ChunkRing, CopyChannel, DirectChannel, TwoHopChannel

MOST_CHUNK_BYTES = 16 * 1024**2
CHUNKS = 4

log = structlog.get_logger("multigpu")


class ChannelChoice:
    """The copy channels of one model, one for each source and kind of memory, made when they are first needed."""

    def __init__(self, registry: DeviceRegistry, compute: str, locked: PinnedMemory) -> None:
        self._registry = registry
        self._compute = compute
        self._locked = locked
        self._channels: dict[str, CopyChannel] = {}
        self._chunks: ChunkRing | None = None
        self._chunk_bytes = MOST_CHUNK_BYTES

    def begin(self, largest_bytes: int) -> None:
        """Make copy channels for offloaded modules of at most so many bytes: together the chunks are no larger."""
        self._chunk_bytes = min(MOST_CHUNK_BYTES, max(ALIGNMENT, largest_bytes // CHUNKS))

    def channel_for(self, tensors: Sequence[torch.Tensor]) -> CopyChannel | None:
        """Return the copy channel for tensors of one device; None for tensors of several, or where no stream leads."""
        parts = [part for tensor in tensors for part in parts_of(tensor)]
        devices = {part.device for part in parts}
        if len(devices) != 1:
            return None
        source = devices.pop()
        if source.type == "cpu":
            is_locked = all(map(self._locked.holds, parts))
            return self._known("pinned" if is_locked else "pageable", source)
        if source.type != self._registry.torch_device(self._compute).type:
            return None
        return self._known(self._registry.name_of(source), source)

    def forget(self) -> None:
        """Free the buffers."""
        self._channels.clear()
        self._chunks = None

    def _known(self, key: str, source: torch.device) -> CopyChannel:
        if key not in self._channels:
            self._channels[key] = self._host_channel(key) if source.type == "cpu" else self._card_channel(source)
        return self._channels[key]

    def _host_channel(self, key: str) -> CopyChannel:
        streams = self._streams()
        stream = self._registry.shared_stream(self._compute, f"copies from {key} memory")
        chunks = self._chunk_ring() if key == "pageable" else None
        return BounceChannel(streams, stream, chunks) if chunks else DirectChannel(streams, stream)

    def _card_channel(self, source: torch.device) -> CopyChannel:
        streams = self._streams()
        name = self._registry.name_of(source)
        stream = self._registry.shared_stream(self._compute, f"copies from {name}")
        source_stream = self._registry.shared_stream(name, f"copies to {self._compute}")
        if self._registry.reads_directly(self._compute, name):
            return DirectChannel(streams, stream, source_stream)
        log.info(
            "peer_access_missing",
            message=f"{self._compute} cannot read {name} directly: its weights take two hops through host memory",
            devices=[self._compute, name],
        )
        chunks = self._chunk_ring()
        if chunks:
            return TwoHopChannel(streams, stream, source_stream, chunks)
        return DirectChannel(streams, stream, source_stream)

    def _chunk_ring(self) -> ChunkRing | None:
        """Pinned memory to pass through; none where not even that much can be had."""
        if self._chunks is None:
            sizes = [self._chunk_bytes] * CHUNKS
            chunks = [self._locked.allocate(size, self._compute, is_buffer=True) for size in sizes]
            usable = [chunk for chunk in chunks if chunk is not None]
            self._chunks = ChunkRing(self._streams(), usable) if usable else None
        return self._chunks

    def _streams(self) -> Streams:
        streams = self._registry.streams(self._compute)
        assert streams is not None, "only a device with streams has lanes"
        return streams
