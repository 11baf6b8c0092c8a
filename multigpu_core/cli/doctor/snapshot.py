"""The input of `multigpu doctor`, as data. `collect` reads this machine's; tests make up others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .nvidia_smi import NvidiaCard
from .running_server import RunningServer

if TYPE_CHECKING:
    from multigpu.multigpu_core.devices import DeviceInfo


@dataclass(frozen=True)
class InsideComfyUI:
    """What is known of a ComfyUI by importing it with our framework, as its job `readiness` tells."""

    python: str = ""
    torch: str = ""
    comfy_aimdo: str = ""
    knows_dynamic_vram: bool = False
    nodes: int = 0
    missing: Mapping[str, str] = field(default_factory=dict)
    """Features that are off, and what in this ComfyUI has changed."""


@dataclass(frozen=True)
class PackHere:
    """A node pack that we have nodes for; version and commit as far as the pack has them."""

    name: str
    version: str = ""
    commit: str = ""


@dataclass(frozen=True)
class ClusterHere:
    """What this machine is in a cluster. `why_not` says why its Python cannot be; empty where it can."""

    name: str
    is_home: bool = False
    why_not: str = ""
    ray_version: str = ""
    token_file: str = ""
    token_is_private: bool = True
    is_running: bool = True
    port_in_use: int | None = None
    shared_bytes: int | None = None
    """The size of /dev/shm; None where there is none."""


@dataclass(frozen=True)
class Snapshot:
    """The machine, its Python and its ComfyUI; sizes in bytes."""

    python: tuple[int, int] = (3, 11)
    torch: tuple[int, int] | None = (2, 11)
    """None where it is not installed."""
    system: str = "Linux"
    is_wsl: bool = False
    environ: Mapping[str, str] = field(default_factory=dict)

    comfyui: Path | None = None
    comfyui_version: str = ""
    inside: InsideComfyUI | None = None
    why_not_inside: str = ""
    """Why the ComfyUI could not be imported."""
    comfy_aimdo_wanted: str = ""
    """The version that this ComfyUI's requirements name."""
    server: RunningServer | None = None
    packs: tuple[PackHere, ...] = ()
    rivals: tuple[str, ...] = ()
    """Folders of the existing ComfyUI-MultiGPU."""
    settings_problems: tuple[str, ...] = ()
    failed_plugins: tuple[tuple[str, str], ...] = ()
    """Name and reason."""
    largest_model: tuple[str, int] | None = None

    devices: tuple[DeviceInfo, ...] = ()
    device_problems: tuple[str, ...] = ()
    blind_pairs: tuple[tuple[str, str], ...] = ()
    """Cards of which the first cannot read the second's memory."""
    is_profiled: bool = True
    free_bytes: int | None = None
    swap_bytes: int | None = None
    free_swap_bytes: int | None = None
    nvidia_cards: tuple[NvidiaCard, ...] = ()
    cluster: ClusterHere | None = None
    """None where it is in no cluster."""

    @property
    def cards(self) -> list[DeviceInfo]:
        """The accelerators."""
        return [info for info in self.devices if info.name != "cpu"]
