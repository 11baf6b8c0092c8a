"""Read files that somebody else may have written, and write files that are whole or unchanged."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Return the contents of a regular file of at most `max_bytes`.

    Raises:
        OSError: it cannot be read, or is no regular file: reading a pipe could wait without end.
        ValueError: it is larger, or its path cannot be one.
    """
    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path} is not a regular file")
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"{path} has more than {max_bytes} bytes")
    return content


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to `path`, whose folder exists: after a crash or on a full disk the old file is still whole.

    The content goes to a new file in the same folder, which then takes the place of `path`. If `path` is a symbolic
    link, the link is replaced, and what it points to stays as it is.

    Raises:
        OSError: the file cannot be written; `path` is unchanged.
    """
    data = content.encode() if isinstance(content, str) else content
    # Not derived from the name, which may already be as long as the file system allows.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    # O_EXCL: never an existing file, and never through a link. Binary, because text mode would change line ends.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, 0o666)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut, where the system can."""
    with suppress(OSError):  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
