"""Find out which GPUs can really read each other's memory.

A driver may claim it where it is not so: in virtual machines, or behind an IOMMU, such copies bring garbage.
"""

from __future__ import annotations

from contextlib import ExitStack

import structlog
import torch

from multigpu.multigpu_core.devices.backends.streams import DeviceStream, Streams

log = structlog.get_logger("multigpu")

PROBE_BYTES = 1024**2


class PeerAccess:
    """Tries each pair once, with real bytes."""

    def __init__(self) -> None:
        self._works: dict[tuple[torch.device, torch.device], bool] = {}

    def works(self, streams: Streams, reader: DeviceStream, source: DeviceStream) -> bool:
        """Whether a copy from the device of one stream to that of another brings the bytes that were there."""
        pair = (torch.device(reader.device), torch.device(source.device))
        if pair not in self._works:
            self._works[pair] = _brings_the_same_bytes(streams, reader, source)
            if not self._works[pair]:
                log.warning(
                    "peer_access_broken",
                    message=f"The driver says that {pair[0]} can read the memory of {pair[1]}, but a copy of "
                    f"{PROBE_BYTES} bytes came out wrong. Copies between them go through host memory instead. Virtual "
                    "machines and an IOMMU cause this: switch the IOMMU off, or ask the machine's administrator.",
                    devices=[str(device) for device in pair],
                )
        return self._works[pair]


def _brings_the_same_bytes(streams: Streams, reader: DeviceStream, source: DeviceStream) -> bool:
    pattern = torch.arange(PROBE_BYTES // 8).mul_(0x9E3779B97F4A7C15 - 2**64)  # every byte takes every value
    there = pattern.to(source.device)
    here = torch.zeros_like(pattern, device=reader.device)
    with ExitStack() as scopes:
        for stream in (source, reader):
            stream.wait_stream(streams.current_stream(stream.device))
            scopes.enter_context(streams.stream(stream))
        here.copy_(there, non_blocking=True)
    reader.synchronize()
    return torch.equal(here.cpu(), pattern)
