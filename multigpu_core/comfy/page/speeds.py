"""Measure this machine's speeds from ComfyUI's page, with progress."""

from __future__ import annotations

import threading
from dataclasses import asdict
from functools import partial
from typing import Any

import structlog

from multigpu.multigpu_core.comfy.host.prompt_worker import PromptWorker
from multigpu.multigpu_core.devices import DeviceRegistry, Measured, profile_anew, profile_file

log = structlog.get_logger("multigpu")
EVENT = "multigpu.measured"
"""The event of ComfyUI's own socket that tells of each figure: `what`, `value`, `number`, `total`, `failure`."""


class NotIdleError(RuntimeError):
    """A prompt runs or waits, or the speeds are being measured already: what is measured now would be wrong."""


class SpeedMeasurement:
    """One at a time, and only while ComfyUI is idle."""

    def __init__(self, registry: DeviceRegistry, prompt_server: Any, worker: PromptWorker) -> None:
        self._registry = registry
        self._server = prompt_server
        self._worker = worker
        self._turn = threading.Lock()

    def run(self) -> None:
        """Measure and keep, in under 20 seconds.

        Raises:
            NotIdleError: nothing is kept; a prompt that comes meanwhile ends it before the next figure.
            ProfileError: the machine cannot be measured, or what was measured not be kept.
        """
        if not self._turn.acquire(blocking=False):
            raise NotIdleError("The speeds are already being measured.")
        try:
            begun = self._worker.begun
            self._refuse_when_disturbed(begun)
            profile_anew(self._registry, partial(self._tell, begun))
        finally:
            self._turn.release()
        log.info("profile_measured", message=f"the speeds of this machine are measured and kept in {profile_file()}")

    def _tell(self, begun: int, measured: Measured) -> None:
        self._refuse_when_disturbed(begun)
        self._server.send_sync(EVENT, asdict(measured))

    def _refuse_when_disturbed(self, begun: int) -> None:
        """Raise if a prompt runs or waits, or one has begun since `begun`, even if it has ended already."""
        if not self._worker.is_idle or self._worker.begun != begun:
            raise NotIdleError("A prompt is running. Measure the speeds when it has ended.")
