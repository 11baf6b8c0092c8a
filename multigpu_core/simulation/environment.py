"""Simulated accelerators by an environment variable, for a ComfyUI that somebody starts without a GPU."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from .comfyui_view import appear_to_comfyui
from .errors import SimulationSpecError
from .machine import SimulatedMachine, simulate

ENVIRONMENT_VARIABLE = "MULTIGPU_SIMULATE"
MAX_DEVICES = 64
LEAST_BYTES = 1 << 20
"""Of a device; less is a unit forgotten."""
_UNITS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_PART = re.compile(r"(?:(?P<count>\d+)\s*x\s*)?(?P<amount>\d+(?:\.\d+)?)\s*(?P<unit>[kmgt]?)b?", re.IGNORECASE)


def simulate_from_environment(environment: Mapping[str, str] = os.environ) -> SimulatedMachine | None:
    """Do what `MULTIGPU_SIMULATE` says, in a way that ComfyUI takes the simulated devices for its accelerators.

    Must come before ComfyUI imports torch. None where the variable is unset or empty. Raises `SimulationSpecError` for
    a value that cannot be read and `SimulationUnavailableError` where PyTorch cannot simulate.
    """
    spec = environment.get(ENVIRONMENT_VARIABLE, "").strip()
    if not spec:
        return None
    machine = simulate(parse_sizes(spec))
    appear_to_comfyui(machine)
    return machine


def parse_sizes(spec: str) -> tuple[int, ...]:
    """The bytes of each device that `spec` describes: ``8gb``, ``8gb,4gb``, ``2x8gb``, ``3x512mb`` (powers of 1024)."""
    sizes: list[int] = []
    for part in spec.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise SimulationSpecError(spec, part, "is not a size")
        count = int(match["count"] or 1)
        size = int(float(match["amount"]) * 1024 ** _UNITS[match["unit"].lower()])
        if not count:
            raise SimulationSpecError(spec, part, "makes no device")
        if size < LEAST_BYTES:
            raise SimulationSpecError(spec, part, "makes a device of less than 1 MB")
        if len(sizes) + count > MAX_DEVICES:
            raise SimulationSpecError(spec, part, f"makes more than {MAX_DEVICES} devices")
        sizes += [size] * count
    return tuple(sizes)
