"""A format of model files: how to recognise it, and how to read the tensors from its header."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .stored_tensor import StoredTensor

FIRST_BYTES = 64
"""So many bytes of a file are given to `FileFormat.recognises`."""


@dataclass(frozen=True)
class FileFormat:
    """One format of model files that has a header.

    `suffixes` are those of its files, in lower case, such as ``.gguf``. `recognises` gets a file's first 64 bytes.
    `read_header` returns all tensors in the order of their data without reading them; it raises `HeaderError` for a
    damaged file and OSError for one that cannot be read.
    """

    name: str
    suffixes: tuple[str, ...]
    recognises: Callable[[bytes], bool]
    read_header: Callable[[Path], Sequence[StoredTensor]]
