"""What the demo runs on: this machine's accelerators, or simulated ones where it has none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from multigpu.multigpu_core.devices import DeviceRegistry
from multigpu.multigpu_core.simulation.environment import ENVIRONMENT_VARIABLE

SIMULATION = "2x2gb"
SIMULATED_NAMES = ("npu:0", "npu:1")
CPU_PERCENT = 20


@dataclass(frozen=True)
class DemoMachine:
    """The accelerators of a demo by name, and how ComfyUI is started so that it has them."""

    accelerators: tuple[str, ...]
    simulated: bool
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def compute_device(self) -> str:
        return self.accelerators[0]

    @property
    def allocation(self) -> str:
        """An expert string over all devices: equal parts for the accelerators, the rest for the cpu."""
        percent = (100 - CPU_PERCENT) // len(self.accelerators)
        return ";".join([f"{name},{percent}%" for name in self.accelerators] + [f"cpu,{CPU_PERCENT}%"])


def choose_machine(registry: DeviceRegistry, environ: Mapping[str, str] = os.environ) -> DemoMachine:
    """The machine that the demo runs on: its accelerators, be they simulated, or else two simulated ones."""
    accelerators = tuple(name for name in registry.names() if name != "cpu")
    if accelerators:
        return DemoMachine(accelerators, simulated=bool(environ.get(ENVIRONMENT_VARIABLE)))
    return DemoMachine(SIMULATED_NAMES, simulated=True, environment={ENVIRONMENT_VARIABLE: SIMULATION})
