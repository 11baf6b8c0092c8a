"""Configure logging from plugins.toml inside ComfyUI: the file is in its user directory; events carry the prompt id."""

from __future__ import annotations

from pathlib import Path

import structlog

from multigpu.multigpu_core.logs import LogFile, configure_logging
from multigpu.multigpu_core.settings.core_settings import LoggingSettings

from .host import executing_prompt

log = structlog.get_logger("multigpu")


def start_logging(settings: LoggingSettings, user_directory: Path | None) -> None:
    """Log as the settings say: to a file in the user directory, if there is one, and to the console alone otherwise."""
    file = None
    if settings.file and user_directory is not None:
        file = LogFile(user_directory / settings.file, settings.file_max_bytes, settings.file_backups)
    try:
        configure_logging(settings.level, file, executing_prompt)
    except OSError as error:
        configure_logging(settings.level, None, executing_prompt)
        message = f"logging.file {settings.file!r} cannot be written: {error}. Events are on the console only."
        log.warning("log_file_refused", message=message)
