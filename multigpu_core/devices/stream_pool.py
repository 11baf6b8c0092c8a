"""The streams that copies run on: few for each device, reused by every load."""

from __future__ import annotations

import torch

from multigpu.multigpu_core.devices.backends.streams import DeviceStream, Streams

MOST_STREAMS = 4
"""For each device and process. Torch hands out 32, and each costs the device a workspace."""


class StreamPool:
    """Gives each use of a device a stream; uses beyond the fourth share them.

    Sharing is always correct, since a stream does one thing after the other; it only costs overlap.
    """

    def __init__(self) -> None:
        self._by_use: dict[torch.device, dict[str, DeviceStream]] = {}

    def stream(self, streams: Streams, device: torch.device, use: str) -> DeviceStream:
        """The stream of `device` for `use`: the same one each time."""
        by_use = self._by_use.setdefault(device, {})
        if use not in by_use:
            made = list(dict.fromkeys(by_use.values()))
            is_new = len(made) < MOST_STREAMS
            by_use[use] = streams.Stream(device=device) if is_new else made[len(by_use) % MOST_STREAMS]
        return by_use[use]
