"""The states of a distribution: frozen values, replaced as a whole, so that any thread may read them at any moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from multigpu.multigpu_core.allocation import AllocationPlan
from multigpu.multigpu_core.execution.parallel.micro_batches import MicroBatches
from multigpu.multigpu_core.execution.parallel.replicas import Replicas
from multigpu.multigpu_core.execution.relay.relay import Relay
from multigpu.multigpu_core.execution.storage.packed_storage import PackedStorage
from multigpu.multigpu_core.execution.streaming.streamer import Streamer

from .device_guard import CurrentDevice


@dataclass(frozen=True)
class Home:
    """The model is whole on its offload device, and none of our hooks is on it."""


@dataclass(frozen=True)
class Placing:
    """A plan is in force. Blocks are being placed, and none of our hooks is on the model."""

    plan: AllocationPlan
    streamer: Streamer
    relay: Relay | None
    """Where the plan has other devices compute."""
    current_device: CurrentDevice
    storage: PackedStorage | None
    """Where the compute device has streams, so that packed weights can be copied ahead of time."""
    replicas: Replicas | None
    """Where the plan has other devices compute a part of each step."""

    @property
    def hooks(self) -> tuple[Replicas | Streamer | Relay | CurrentDevice, ...]:
        """What is attached to the model while it is served."""
        return tuple(filter(None, (self.replicas, self.streamer, self.relay, self.current_device)))

    @property
    def micro_batches(self) -> MicroBatches | None:
        return self.relay.micro_batches if self.relay is not None else None

    def without_hooks(self) -> Placing:
        """The state before hooks serve; what carries out the plan stays."""
        return Placing(self.plan, self.streamer, self.relay, self.current_device, self.storage, self.replicas)


@dataclass(frozen=True)
class Serving(Placing):
    """Every block is placed, and the hooks are on that bring each offloaded block to where it is computed."""

    devices: Mapping[str, str]
    """Where each block was placed, by block name."""


State = Home | Placing
"""``Home ─begin▶ Placing ─serve▶ Serving ─place▶ Placing``, and `release` leads ``Home`` from anywhere."""
