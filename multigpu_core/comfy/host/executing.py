"""Report what ComfyUI is executing."""

from __future__ import annotations

import server
from comfy_execution.utils import get_executing_context


def executing_prompt() -> str | None:
    """The id of the prompt that ComfyUI executes, whatever thread asks: it executes one at a time."""
    queue = getattr(getattr(server.PromptServer, "instance", None), "prompt_queue", None)
    running = list(queue.currently_running.values()) if queue is not None else []
    return str(running[0][1]) if running else None


def executing_node() -> str | None:
    """The id of the node that runs in this context; None where a script calls it."""
    context = get_executing_context()
    return context.node_id if context is not None else None
