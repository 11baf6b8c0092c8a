"""Tools for authors of plugins and node packs: the conformance kit, simulated accelerators, a ComfyUI to test in.

    from multigpu.testing import LoaderTrial, check_loader, check_plugin

    pytest_plugins = ["multigpu.testing"]  # brings the fixtures simulated_comfyui and simulated_machine

The names load when they are first used: `check_plugin` needs neither torch nor ComfyUI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from multigpu.multigpu_core.conformance.fixtures import simulated_comfyui, simulated_machine  # noqa: F401
from multigpu.multigpu_core.lazy_names import lazily

if TYPE_CHECKING:
    from multigpu.multigpu_core.conformance.host_allocations import HostMemoryMeter
    from multigpu.multigpu_core.conformance.kit import ConformanceError, check_loader, check_plugin
    from multigpu.multigpu_core.conformance.trial import LoaderTrial
    from multigpu.multigpu_core.provisioning.client import ComfyUIClient, WorkflowError
    from multigpu.multigpu_core.provisioning.in_process import ComfyUI, start_comfyui
    from multigpu.multigpu_core.provisioning.release import comfyui_folder
    from multigpu.multigpu_core.provisioning.server import ComfyUIServer, install_custom_node
    from multigpu.multigpu_core.simulation.comfyui_view import appear_to_comfyui
    from multigpu.multigpu_core.simulation.environment import (
        ENVIRONMENT_VARIABLE,
        parse_sizes,
        simulate_from_environment,
    )
    from multigpu.multigpu_core.simulation.errors import SimulationSpecError, SimulationUnavailableError
    from multigpu.multigpu_core.simulation.launches import WrongCurrentDeviceError
    from multigpu.multigpu_core.simulation.machine import GB, SimulatedMachine, simulate, simulated
    from multigpu.multigpu_core.simulation.memory.ledger import CopyLog, CopyRecord, SimulatedDevice
    from multigpu.multigpu_core.simulation.time.clock import ClockSettings, Span, VirtualClock
    from multigpu.multigpu_core.simulation.time.faults import SimulatedFaultError
    from multigpu.multigpu_core.simulation.time.races import SimulatedRaceError
    from multigpu.multigpu_core.simulation.time.trace import chrome_trace, trace_picture

_MODULES = {
    "conformance.trial": ("LoaderTrial",),
    "conformance.host_allocations": ("HostMemoryMeter",),
    "conformance.kit": (
        "ConformanceError",
        "check_loader",
        "check_plugin",
    ),
    "simulation.comfyui_view": ("appear_to_comfyui",),
    "provisioning.in_process": (
        "ComfyUI",
        "start_comfyui",
    ),
    "provisioning.client": ("ComfyUIClient", "WorkflowError"),
    "provisioning.release": ("comfyui_folder",),
    "provisioning.server": ("ComfyUIServer", "install_custom_node"),
    "simulation.environment": (
        "ENVIRONMENT_VARIABLE",
        "parse_sizes",
        "simulate_from_environment",
    ),
    "simulation.errors": (
        "SimulationSpecError",
        "SimulationUnavailableError",
    ),
    "simulation.launches": ("WrongCurrentDeviceError",),
    "simulation.machine": (
        "GB",
        "SimulatedMachine",
        "simulate",
        "simulated",
    ),
    "simulation.memory.ledger": (
        "CopyLog",
        "CopyRecord",
        "SimulatedDevice",
    ),
    "simulation.time.clock": (
        "ClockSettings",
        "Span",
        "VirtualClock",
    ),
    "simulation.time.faults": ("SimulatedFaultError",),
    "simulation.time.races": ("SimulatedRaceError",),
    "simulation.time.trace": (
        "chrome_trace",
        "trace_picture",
    ),
}

__all__ = [
    "ENVIRONMENT_VARIABLE",
    "GB",
    "ClockSettings",
    "ComfyUI",
    "ComfyUIClient",
    "ComfyUIServer",
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
    "WorkflowError",
    "WrongCurrentDeviceError",
    "appear_to_comfyui",
    "check_loader",
    "check_plugin",
    "chrome_trace",
    "comfyui_folder",
    "install_custom_node",
    "parse_sizes",
    "simulate",
    "simulate_from_environment",
    "simulated",
    "start_comfyui",
    "trace_picture",
]


__getattr__ = lazily(__name__, _MODULES)
