"""What a model file is, wherever it lies: its name, size and blake3."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HEX_DIGITS = 64


@dataclass(frozen=True)
class FileIdentity:
    """A file's name without folders, its size in bytes, and the blake3 of its content in hexadecimal digits."""

    name: str
    size_bytes: int
    blake3: str

    def __post_init__(self) -> None:
        is_name = self.name not in ("", ".", "..") and not set(self.name) & set("/\\\0")
        is_digest = len(self.blake3) == HEX_DIGITS and not set(self.blake3) - set("0123456789abcdef")
        if not (is_name and is_digest and self.size_bytes >= 0):
            raise ValueError(f"{self.name!r} of {self.size_bytes} bytes with blake3 {self.blake3!r} is no model file")

    @property
    def values(self) -> dict[str, Any]:
        """As an operation takes it."""
        return asdict(self)


class Identities:
    """Identities of files of this machine; a file is read again only when its size or time has changed."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, int, int], FileIdentity] = {}

    def of(self, path: Path) -> FileIdentity:
        """The identity of a file.

        Raises:
            OSError: it cannot be read.
        """
        state = path.stat()
        key = path, state.st_size, state.st_mtime_ns
        if key not in self._known:
            self._known[key] = FileIdentity(path.name, state.st_size, _blake3_of(path))
        return self._known[key]


def _blake3_of(path: Path) -> str:
    from blake3 import blake3

    hasher = blake3(max_threads=blake3.AUTO)
    hasher.update_mmap(path)
    return str(hasher.hexdigest())
