"""The model files of a worker's machine: its own folders, and a cache of bounded size for what home sends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from .identity import FileIdentity, Identities

MAX_PIECE_BYTES = 64 << 20
PART = ".part"


class ModelStore:
    """Finds files, and takes files in pieces. A file that was only partly sent is continued where it ended."""

    def __init__(self, folders: Sequence[Path], cache: Path, limit_bytes: int) -> None:
        self._folders = folders
        self._cache = cache
        self._limit_bytes = limit_bytes
        self._identities = Identities()

    def operations(self) -> dict[str, Callable[..., Any]]:
        return {"file.look": self.look, "file.write": self.write}

    def find(self, wanted: FileIdentity) -> Path | None:
        """The file, in this machine's folders or in the cache; None where it is in neither."""
        for path in (*self._candidates(wanted), self._cached(wanted)):
            with suppress(OSError):
                if path.stat().st_size == wanted.size_bytes and self._identities.of(path).blake3 == wanted.blake3:
                    if path.parent == self._cache:
                        os.utime(path)  # the file that was used longest ago gives way first
                    return path
        return None

    def look(self, **wanted: Any) -> int:
        """How many bytes of a file are here: all of them, or those of an earlier attempt to send it."""
        identity = FileIdentity(**wanted)
        if self.find(identity) is not None:
            return identity.size_bytes
        part = self._part(identity)
        return min(part.stat().st_size, identity.size_bytes) if part.is_file() else 0

    def write(self, offset: int, piece: torch.Tensor, **wanted: Any) -> int:
        """Take a piece of a file. Returns how many bytes are here now; with the last one the file is checked.

        Raises:
            ValueError: the piece does not follow what is here, is too large, or the whole file is another one.
        """
        identity = FileIdentity(**wanted)
        data = piece.reshape(-1).view(torch.uint8).numpy()
        if not 0 < data.nbytes <= MAX_PIECE_BYTES or offset + data.nbytes > identity.size_bytes:
            raise ValueError(f"{identity.name}: a piece of {data.nbytes:,} bytes at {offset:,} is not taken")
        part = self._part(identity)
        if offset == 0:
            self._make_room(identity)
            part.unlink(missing_ok=True)
        here = part.stat().st_size if part.is_file() else 0
        if here != offset:
            raise ValueError(f"{identity.name}: {here:,} bytes are here, and the piece begins at {offset:,}")
        with part.open("ab") as file:
            file.write(data.data)
        if offset + data.nbytes == identity.size_bytes:
            self._accept(identity, part)
        return offset + data.nbytes

    def _accept(self, identity: FileIdentity, part: Path) -> None:
        if self._identities.of(part).blake3 != identity.blake3:
            part.unlink()
            raise ValueError(f"{identity.name} was damaged on its way, or changed while it was sent")
        part.replace(self._cached(identity))

    def _make_room(self, identity: FileIdentity) -> None:
        """Delete what was used longest ago until the file fits into the cache."""
        self._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        if identity.size_bytes > self._limit_bytes:
            raise ValueError(
                f"{identity.name} has {identity.size_bytes / 1e9:.1f} GB, and the cache for files from home may have "
                f"{self._limit_bytes / 1e9:.1f} GB. Copy the file into a model folder of that machine and join with "
                "--models FOLDER, or join with a larger --cache-gb"
            )
        held = sorted(self._cache.iterdir(), key=lambda path: path.stat().st_mtime)
        too_many = sum(path.stat().st_size for path in held) + identity.size_bytes - self._limit_bytes
        for path in held:
            if too_many <= 0:
                return
            too_many -= path.stat().st_size
            path.unlink()

    def _candidates(self, wanted: FileIdentity) -> Iterator[Path]:
        for root in self._folders:
            for folder, _, names in os.walk(root, followlinks=True):
                if wanted.name in names:
                    yield Path(folder, wanted.name)

    def _cached(self, identity: FileIdentity) -> Path:
        return self._cache / (identity.blake3 + Path(identity.name).suffix.lower())

    def _part(self, identity: FileIdentity) -> Path:
        return self._cache / (identity.blake3 + PART)
