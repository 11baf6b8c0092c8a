"""How our log lines look: a sentence on ComfyUI's console and, where the user names a file, a line of JSON there.

Every event has a name, as in ``log.info("split_loaded", message="Flux: 57 blocks placed …", model="Flux", blocks=57)``:
`message` is what people read, the rest is data for programs, in bytes and milliseconds. docs/logging.md lists them all.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import datetime, timezone
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import structlog

NAME = "multigpu"
_EVENT = "multigpu_event"
"""Under this attribute a record of Python's logging carries the event that it was made of."""


@dataclass(frozen=True)
class LogFile:
    """A file of JSON lines; one that has grown to `max_bytes` is renamed, and the last `backups` of them are kept."""

    path: Path
    max_bytes: int
    backups: int


def configure_logging(
    level: str = "info", file: LogFile | None = None, executing_prompt: Callable[[], str | None] = lambda: None
) -> None:
    """Send our events of `level` and above to Python's logging and to `file`, with the id of the prompt that runs.

    Nobody else's structlog set-up is touched: where there is one, our events go through it instead.

    Raises:
        OSError: the file cannot be written.
    """
    logger = logging.getLogger(NAME)
    logger.setLevel(level.upper())
    for handler in [each for each in logger.handlers if isinstance(each, _JsonFile)]:
        logger.removeHandler(handler)
        handler.close()
    if not structlog.is_configured():
        structlog.configure(
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.processors.format_exc_info,
                _Prompt(executing_prompt),
                _to_logging,
            ],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
        )
    if file is not None:
        logger.addHandler(_JsonFile(file))


@dataclass(frozen=True)
class _Prompt:
    """Adds the id of the prompt that ComfyUI executes."""

    executing: Callable[[], str | None]

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        prompt_id = self.executing()
        if prompt_id is not None:
            event.setdefault("prompt_id", prompt_id)
        return event


def _to_logging(logger: Any, method: str, event: MutableMapping[str, Any]) -> tuple[tuple[str], Mapping[str, Any]]:
    """``[MultiGPU] the sentence``, and the event for the file."""
    text = f"[MultiGPU] {event.get('message', event['event'])}"
    if "exception" in event:
        text += f"\n{event['exception']}"
    # log.exception would have Python's logging add the traceback, which is in the text.
    return (text,), {"exc_info": False, "extra": {_EVENT: dict(event)}}


class _JsonFile(RotatingFileHandler):
    """Writes events as JSON lines."""

    def __init__(self, file: LogFile) -> None:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(file.path, maxBytes=file.max_bytes, backupCount=file.backups, encoding="utf-8")

    def format(self, record: logging.LogRecord) -> str:
        event = getattr(record, _EVENT, {"event": "message", "message": record.getMessage()})
        time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        head = {"time": time, "level": record.levelname.lower(), "event": event["event"]}
        return json.dumps(head | event, default=str, ensure_ascii=False)
