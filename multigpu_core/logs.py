"""The format of our log lines: a sentence on ComfyUI's console and, where the user names a file, a line of JSON there.

Every event has a name, as in ``log.info("split_loaded", message="Flux: 57 blocks placed …", model="Flux", blocks=57)``:
`message` is what people read, the rest is data for programs, in bytes and milliseconds. docs/logging.md lists them all.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import datetime, timezone
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import structlog

NAME = "multigpu"
log = structlog.get_logger(NAME)

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys instead of showing it, and halves of characters; tabs and line feeds are left."""
_EVENT = "multigpu_event"
"""Under this attribute a record of Python's logging carries the event that it was made of."""


def printable(text: str) -> str:
    r"""`text` with its control characters written out, as in ``\x1b``. Lines after the first are indented.

    So no name of a file, plugin or model in it can colour the console, move its cursor, or pass for a line of its own.
    """
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text).replace("\n", "\n  ")


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
    text = printable(text)
    # log.exception would have Python's logging add the traceback, which is in the text.
    return (text,), {"exc_info": False, "extra": {_EVENT: dict(event)}}


class _JsonFile(RotatingFileHandler):
    """Writes events as JSON lines. A file that cannot be written is reported once, and once when it can be again."""

    def __init__(self, file: LogFile) -> None:
        self._is_failing = False
        self._reason = ""
        file.path.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(file.path, maxBytes=file.max_bytes, backupCount=file.backups, encoding="utf-8")

    def format(self, record: logging.LogRecord) -> str:
        event = getattr(record, _EVENT, {"event": "message", "message": record.getMessage()})
        time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        head = {"time": time, "level": record.levelname.lower(), "event": event["event"]}
        line = json.dumps(head | event, default=str, ensure_ascii=False)
        return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", line)

    def emit(self, record: logging.LogRecord) -> None:
        was_failing, self._is_failing = self._is_failing, False
        super().emit(record)  # calls `handleError` where it fails
        if was_failing and not self._is_failing:
            message = f"The log file {self.baseFilename} can be written again. Events in between are not in it."
            log.info("log_file_works_again", message=message)
        elif self._is_failing and not was_failing:
            message = (
                f"The log file {self.baseFilename} cannot be written: {self._reason}. Events are on the console only."
            )
            log.warning("log_file_failed", message=message)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Close the file: the next event opens it again."""
        self._reason = str(sys.exc_info()[1])
        self._is_failing = True
        stream, self.stream = self.stream, None
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()

    def _open(self) -> TextIOWrapper:
        """Open the file, and end the line that a full disk or a killed process left unfinished."""
        stream = super()._open()
        file = Path(self.baseFilename)
        if file.is_file() and file.stat().st_size:
            with file.open("rb") as written:
                written.seek(-1, os.SEEK_END)
                if written.read(1) != b"\n":
                    stream.write(self.terminator)
        return stream
