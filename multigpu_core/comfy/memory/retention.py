"""Release the retained outputs of nodes that no prompt has used for long.

The last prompt that ran counts as running until another one does: ComfyUI's cache holds its outputs, and somebody who
comes back from lunch finds everything as it was.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import structlog

from multigpu.multigpu_core.comfy.host.compatibility import model_management as mm
from multigpu.multigpu_core.comfy.host.prompt_worker import PromptWorker

from .retained_outputs import NodeKey, RetainedOutputs

log = structlog.get_logger("multigpu")

SETTING = "memory.kept_idle_minutes"


class RetentionWatch:
    """Watches ComfyUI's prompt queue; with `idle_minutes` of 0 nothing is released."""

    def __init__(self, retained: RetainedOutputs, queue: Any, worker: PromptWorker, idle_minutes: float) -> None:
        self._retained = retained
        self._queue = queue
        self._worker = worker
        self._idle_minutes = idle_minutes
        self._release: Future[None] | None = None

    def look(self) -> None:
        """Look once. What is to go is released by the prompt worker while no prompt runs or waits.

        Raises:
            Exception: the last release failed.
        """
        self._retained.want(_nodes_in_prompts(self._queue))
        if self._release is not None:
            if not self._release.done():
                self._worker.wake()
                return
            release, self._release = self._release, None
            release.result()
        is_due = self._idle_minutes and self._retained.unwanted(self._idle_minutes * 60)
        if is_due and self._worker.is_idle and self._worker.fault is None:
            self._release = self._worker.submit(self._release_unwanted)

    def _release_unwanted(self) -> None:
        if self._queue.get_tasks_remaining():  # a prompt that came meanwhile may have the node
            return
        for node_class, node_id in self._retained.release_unwanted(self._idle_minutes * 60):
            log.info(
                "kept_released",
                message=f"Unloaded the model kept by node {node_id} ({node_class}): unused for {self._idle_minutes:g} "
                f"minutes. To keep models longer, set {SETTING} in plugins.toml; 0 keeps them forever.",
                node_class=node_class,
                node_id=node_id,
                setting=SETTING,
            )
        gc.collect()
        mm.soft_empty_cache()


def _nodes_in_prompts(queue: Any) -> list[NodeKey]:
    """The nodes of the prompt that runs, or else of the one that ran last."""
    with queue.mutex:
        running = list(queue.currently_running.values())
        last = next(reversed(queue.history.values()), None)
    if not running and last is not None:
        running = [last["prompt"]]
    prompts: list[Mapping[str, Mapping[str, Any]]] = [prompt for _, _, prompt, *_ in running]
    return [
        (str(node["class_type"]), node_id)
        for prompt in prompts
        for node_id, node in prompt.items()
        if "class_type" in node
    ]
