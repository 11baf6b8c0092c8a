"""Access to the running ComfyUI: its devices, its memory management, its server and what that executes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from multigpu.multigpu_core.allocation.formats.built_in import BUILT_IN_FORMATS
from multigpu.multigpu_core.allocation.inventory.of_file import Formats, model_suffixes
from multigpu.multigpu_core.comfy.host.comfyui_names import MissingNameError
from multigpu.multigpu_core.comfy.host.compatibility import comfy_execution_utils, server
from multigpu.multigpu_core.comfy.host.compatibility import model_management as mm
from multigpu.multigpu_core.comfy.host.pinned_budget import ComfyUIPins
from multigpu.multigpu_core.devices import (
    DeviceInfo,
    DeviceRegistry,
    HardwareProfile,
    known_profile,
    profile_changed_ns,
)
from multigpu.multigpu_core.execution import PinnedMemory
from multigpu.multigpu_core.settings.core_settings import MemorySettings
from multigpu.multigpu_core.strategies.built_in import built_in_strategies
from multigpu.multigpu_core.strategies.strategy import Strategies, Strategy

LIMITLESS = sys.maxsize


def prompt_server() -> Any | None:
    """ComfyUI's server; None without one, as in a script that imports ComfyUI."""
    return getattr(getattr(server, "PromptServer", None), "instance", None)


def executing_prompt() -> str | None:
    """The id of the prompt that ComfyUI executes, whatever thread asks: it executes one at a time."""
    queue = getattr(prompt_server(), "prompt_queue", None)
    running = list(queue.currently_running.values()) if queue is not None else []
    return str(running[0][1]) if running else None


def executing_node() -> str | None:
    """The id of the node that runs in this context; None where a script calls it, and where ComfyUI does not say."""
    try:
        context = comfy_execution_utils.get_executing_context()
    except MissingNameError:
        return None
    return context.node_id if context is not None else None


class Host:
    """The running ComfyUI, seen through the devices that it may use."""

    def __init__(
        self,
        registry: DeviceRegistry,
        default_strategy: str = Strategy.INTERLEAVE.name,
        memory: MemorySettings | None = None,
        formats: Formats = BUILT_IN_FORMATS,
        strategies: Strategies | None = None,
    ) -> None:
        self.registry = registry
        self.formats = formats
        """The formats of model files whose headers can be read, those of plugins included."""
        self.model_suffixes = model_suffixes(formats)
        self._profile: tuple[tuple[int | None, tuple[str, ...]], HardwareProfile] | None = None
        self.memory = memory or MemorySettings()
        self._own_device = registry.name_of(mm.get_torch_device())
        self.strategies = strategies or built_in_strategies()
        """What a split node offers, those of plugins included."""
        known = default_strategy in self.strategies.names
        self.default_strategy = default_strategy if known else Strategy.INTERLEAVE.name
        """What a split node's `strategy` is until the user chooses."""
        self.pinned = PinnedMemory(
            registry, int(self.memory.page_locked_fraction * registry.total_bytes("cpu")), ComfyUIPins()
        )
        """Shared by all split models; at most this fraction of the host's memory is pinned for them."""

    @property
    def profile(self) -> HardwareProfile:
        """How fast this machine is: as `multigpu profile` has measured, else as published for its kind.

        It is read again when it was measured anew, so nobody has to restart ComfyUI for that, and when there are other
        devices than before: a driver that failed for a moment may have hidden one.
        """
        known = profile_changed_ns(), self.registry.names()
        if self._profile is None or self._profile[0] != known:
            self._profile = known, known_profile(self.registry)
        return self._profile[1]

    def default_device(self) -> str:
        """The device on which ComfyUI itself loads models, also while a node of ours works with another one."""
        return self._own_device

    def devices_for(
        self, names: Iterable[str], held_bytes: Mapping[str, int], limits: Mapping[str, int]
    ) -> tuple[DeviceInfo, ...]:
        """These devices as they are now. What this model holds there already counts as free: it will be placed anew.

        `limits` are the most bytes that a device is known to take, where it has shown that it takes less than it says.
        """
        infos = [self.registry.info(name) for name in names]
        free = {info.name: info.free_bytes + held_bytes.get(info.name, 0) for info in infos}
        return tuple(replace(info, free_bytes=min(free[info.name], limits.get(info.name, LIMITLESS))) for info in infos)

    def inference_reserve_bytes(self, compute: str, weight_budget_bytes: float) -> int:
        """Bytes of a compute device's free memory that ComfyUI wants left for inference.

        `weight_budget_bytes` is what ComfyUI granted for weights; it says so only where it manages that memory.
        """
        free = self.registry.free_bytes(compute)
        if 0 < weight_budget_bytes < free:
            return int(free - weight_budget_bytes)
        return int(mm.minimum_inference_memory())
