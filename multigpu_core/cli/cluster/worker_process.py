"""What a worker runs on another machine: a program of its own, like the commands, which an engine starts by name."""

from __future__ import annotations

from multigpu.multigpu_core.cluster.operations import Operations
from multigpu.multigpu_core.simulation.environment import simulate_from_environment


def looking_around(device: str) -> Operations:
    """A worker that can say what its machine is, and how fast the way to it is."""
    simulate_from_environment()  # as the machine was joined: before anybody looks for devices
    from multigpu.multigpu_core.devices import default_registry

    return Operations(device, default_registry(), {})
