"""Logging as plugins.toml says, inside ComfyUI: where the file lies, and which prompt an event belongs to."""

from __future__ import annotations

from pathlib import Path

import server
import structlog

from multigpu.multigpu_core.logs import LogFile, configure_logging
from multigpu.multigpu_core.plugins.core_settings import LoggingSettings

log = structlog.get_logger("multigpu")


def start_logging(settings: LoggingSettings, user_directory: Path) -> None:
    """Log as the settings say; a file that cannot be written costs the file alone."""
    file = LogFile(user_directory / settings.file, settings.file_max_bytes, settings.file_backups)
    try:
        configure_logging(settings.level, file if settings.file else None, executing_prompt)
    except OSError as error:
        configure_logging(settings.level, None, executing_prompt)
        message = f"logging.file {settings.file!r} cannot be written: {error}. Events are on the console alone."
        log.warning("log_file_refused", message=message)


def executing_prompt() -> str | None:
    """The id of the prompt that ComfyUI executes, whatever thread asks: it executes one at a time."""
    queue = getattr(getattr(server.PromptServer, "instance", None), "prompt_queue", None)
    running = list(queue.currently_running.values()) if queue is not None else []
    return str(running[0][1]) if running else None
