"""Copies between GPUs beside whatever else runs on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from multigpu.multigpu_core.devices import DeviceRegistry, DeviceStream, Streams


class DeviceCopies:
    """Keeps copies between cards off the default stream.

    CUDA runs such a copy on the default stream alone: it begins when all earlier work of both cards is done, and all
    later work waits for it, streamed weights included. Torch queues a copy on the source's stream; so that stream is
    exchanged for another while it is queued, and comes before and after it:

        default stream   [block 1]─┐     ┌─[block 3]
        stream for hops            └─[copy]
    """

    def __init__(self, registry: DeviceRegistry) -> None:
        self._registry = registry
        self._known: dict[torch.device, tuple[Streams, DeviceStream] | None] = {}

    def to(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        """`tensor` on another device, ready for work on the streams that are current now.

        What is expanded stays so: fewer bytes are copied, and matrix kernels round by the layout of their operands.
        """
        with self.beside(tensor.device, device):
            if 0 not in tensor.stride():
                return tensor.to(device, non_blocking=True)
            compact = tensor[tuple(slice(None) if stride else slice(0, 1) for stride in tensor.stride())]
            return compact.to(device, non_blocking=True).expand(tensor.shape)

    @contextmanager
    def beside(self, source: torch.device, destination: torch.device) -> Iterator[None]:
        """Queue copies from one device to another in here; between cards, beside other work."""
        found = self._streams_of(source) if source.type == destination.type and source != destination else None
        current = found[0].current_stream(source) if found is not None else None
        if found is None or current is None or current != found[0].default_stream(source):
            yield
            return
        streams, hop = found
        hop.wait_stream(current)
        with streams.stream(hop):
            yield
        current.wait_stream(hop)

    def _streams_of(self, source: torch.device) -> tuple[Streams, DeviceStream] | None:
        if source not in self._known:
            name = self._registry.name_of(source)
            streams = self._registry.streams(name)
            self._known[source] = (streams, self._registry.shared_stream(name, "hops")) if streams is not None else None
        return self._known[source]
