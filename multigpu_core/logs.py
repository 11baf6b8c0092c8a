"""One place that says how our log lines look: structured, through Python's logging, so that ComfyUI shows them."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

import structlog


def configure_logging(level: str = "info") -> None:
    """Send our lines of `level` and above to `logging`, without touching anybody else's structlog set-up."""
    logging.getLogger("multigpu").setLevel(level.upper())
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.processors.format_exc_info, _one_line],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def _one_line(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    """``[MultiGPU] what happened (key=value, …)``."""
    message = event.pop("event")
    details = ", ".join(f"{key}={value}" for key, value in event.items())
    return f"[MultiGPU] {message}" + (f" ({details})" if details else "")
