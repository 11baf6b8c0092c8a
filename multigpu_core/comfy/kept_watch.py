"""Watches which nodes are in the prompts that run, and releases what is kept for a node that has long been in none.

The last prompt that ran counts as running until another one does: ComfyUI's cache holds its outputs, and somebody who
comes back from lunch finds everything as it was.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from typing import Any

import comfy.model_management as mm
import structlog

from .kept import KeptModels, NodeKey

log = structlog.get_logger("multigpu")

SETTING = "memory.kept_idle_minutes"


class KeptWatch:
    """Looks at ComfyUI's prompt queue; with `idle_minutes` of 0 nothing is released."""

    def __init__(self, kept: KeptModels, queue: Any, idle_minutes: float) -> None:
        self._kept = kept
        self._queue = queue
        self._idle_minutes = idle_minutes

    def look(self) -> None:
        """Look once; what is to go goes while no prompt runs or waits."""
        with self._queue.mutex:
            self._kept.want(_nodes_in_prompts(self._queue))
            is_idle = self._queue.get_tasks_remaining() == 0
        if not is_idle or not self._idle_minutes:
            return
        released = self._kept.release_unwanted(self._idle_minutes * 60)
        for node_class, node_id in released:
            log.info(
                "kept_released",
                message=f"Node {node_id} ({node_class}) was in no prompt for {self._idle_minutes:g} minutes: what it "
                f"keeps is released. To keep models longer set {SETTING} in plugins.toml, 0 for no end.",
                node_class=node_class,
                node_id=node_id,
                setting=SETTING,
            )
        if released:
            gc.collect()
            mm.soft_empty_cache()


def _nodes_in_prompts(queue: Any) -> Iterator[NodeKey]:
    """The nodes of the prompt that runs, or else of the one that ran last."""
    running = list(queue.currently_running.values())
    last = next(reversed(queue.history.values()), None)
    if not running and last is not None:
        running = [last["prompt"]]
    for _, _, prompt, *_ in running:
        nodes: Mapping[str, Mapping[str, Any]] = prompt
        yield from ((str(node["class_type"]), node_id) for node_id, node in nodes.items() if "class_type" in node)
