"""Tools for testing plugins, on simulated accelerators and inside a real ComfyUI; public as `multigpu.testing`.

The names load when they are first used, because fetching a ComfyUI needs neither torch nor a simulation.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .clock import ClockSettings, Span, VirtualClock
    from .comfyui_in_process import ComfyUI, start_comfyui
    from .comfyui_view import appear_to_comfyui
    from .conformance import ConformanceError, LoaderTrial, check_loader, check_plugin
    from .environment import ENVIRONMENT_VARIABLE, parse_sizes, simulate_from_environment
    from .errors import SimulationSpecError, SimulationUnavailableError
    from .faults import SimulatedFaultError
    from .host_memory import HostMemoryMeter
    from .launches import WrongCurrentDeviceError
    from .ledger import CopyLog, CopyRecord, SimulatedDevice
    from .machine import GB, SimulatedMachine, simulate, simulated
    from .races import SimulatedRaceError
    from .trace import chrome_trace, trace_picture

_HOMES = {
    "ClockSettings": "clock",
    "Span": "clock",
    "VirtualClock": "clock",
    "ComfyUI": "comfyui_in_process",
    "start_comfyui": "comfyui_in_process",
    "appear_to_comfyui": "comfyui_view",
    "ConformanceError": "conformance",
    "LoaderTrial": "conformance",
    "check_loader": "conformance",
    "check_plugin": "conformance",
    "ENVIRONMENT_VARIABLE": "environment",
    "parse_sizes": "environment",
    "simulate_from_environment": "environment",
    "SimulationSpecError": "errors",
    "SimulationUnavailableError": "errors",
    "SimulatedFaultError": "faults",
    "HostMemoryMeter": "host_memory",
    "WrongCurrentDeviceError": "launches",
    "CopyLog": "ledger",
    "CopyRecord": "ledger",
    "SimulatedDevice": "ledger",
    "GB": "machine",
    "SimulatedMachine": "machine",
    "simulate": "machine",
    "simulated": "machine",
    "SimulatedRaceError": "races",
    "chrome_trace": "trace",
    "trace_picture": "trace",
}

__all__ = [
    "ENVIRONMENT_VARIABLE",
    "GB",
    "ClockSettings",
    "ComfyUI",
    "ConformanceError",
    "CopyLog",
    "CopyRecord",
    "HostMemoryMeter",
    "LoaderTrial",
    "SimulatedDevice",
    "SimulatedFaultError",
    "SimulatedMachine",
    "SimulatedRaceError",
    "SimulationSpecError",
    "SimulationUnavailableError",
    "Span",
    "VirtualClock",
    "WrongCurrentDeviceError",
    "appear_to_comfyui",
    "check_loader",
    "check_plugin",
    "chrome_trace",
    "parse_sizes",
    "simulate",
    "simulate_from_environment",
    "simulated",
    "start_comfyui",
    "trace_picture",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
