"""Watch the host's memory: when it runs short and ComfyUI is idle, clear the executor's cached outputs.

Models stay as they are: what a node's output alone still refers to is freed with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog

from multigpu.multigpu_core.devices import DeviceRegistry
from multigpu.multigpu_core.settings.core_settings import MemorySettings

log = structlog.get_logger("multigpu")


class HostMemoryWatch:
    """Calls `relieve` once when the used share of memory is above the threshold and `is_idle` says yes.

    It is called again only after use has been below the threshold by the hysteresis: memory that the cache does not
    hold is not asked for over and over.
    """

    def __init__(
        self,
        settings: MemorySettings,
        used_fraction: Callable[[], float],
        is_idle: Callable[[], bool],
        relieve: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._used_fraction = used_fraction
        self._is_idle = is_idle
        self._relieve = relieve
        self._is_armed = True

    def look(self) -> bool:
        """Look once, and relieve if it is time. Returns whether it did."""
        used, threshold = self._used_fraction(), self._settings.host_threshold
        if used < threshold - self._settings.host_hysteresis:
            self._is_armed = True
        if not self._is_armed or used < threshold or not self._is_idle():
            return False
        self._is_armed = False
        log.warning(
            "host_memory_high",
            message=f"{used:.0%} of the host's memory is used: clearing ComfyUI's cached outputs.",
            used_fraction=used,
        )
        self._relieve()
        return True


def watch_of(
    queue: Any, registry: DeviceRegistry, settings: MemorySettings, spare_models: Callable[[], None]
) -> HostMemoryWatch | None:
    """The watch over ComfyUI's prompt queue; None where the user wants none.

    `spare_models` is called before the cache is cleared, so that kept models stay.
    """
    if settings.host_threshold >= 1:
        return None

    def used_fraction() -> float:
        host = registry.info("cpu")
        return 1 - host.free_bytes / host.total_bytes

    def reset_cache() -> None:
        with queue.mutex:  # the worker is to take both flags at once: alone the second unloads all models
            if not queue.get_flags(reset=False):  # what the user has asked for stands, and frees more
                spare_models()
                queue.set_flag("unload_models", False)
                queue.set_flag("free_memory", True)

    return HostMemoryWatch(settings, used_fraction, lambda: queue.get_tasks_remaining() == 0, reset_cache)
