"""The error for a model file with an invalid header, and the limits that all formats share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class HeaderError(ValueError):
    """A model file's header is truncated, damaged or of another format.

    `path` is the file, `field` the part of the header that is wrong, `reason` what is wrong with it.
    """

    def __init__(self, path: Path, field: str, reason: str) -> None:
        super().__init__(f"{path}: {field}: {reason}")
        self.path = path
        self.field = field
        self.reason = reason


DOWNLOAD_AGAIN = "the file is truncated or damaged; download it again"

MAX_TENSORS = 100_000
"""Of one file; a checkpoint with quantisation scales has about 10,000."""
MAX_NAME_CHARACTERS = 1000
MAX_NAME_PARTS = 32
"""Of a tensor's name, between its dots; real names have up to 12."""
MAX_ELEMENTS = 1 << 59
"""Of one tensor: so many elements of sixteen bytes are what 63 bits count."""


def fault_of_name(name: str) -> str:
    """What is wrong with a tensor's name, as in "has control characters in its name"; empty where nothing is."""
    if not name.isprintable():
        return "has control characters in its name"
    if len(name) > MAX_NAME_CHARACTERS:
        return f"has a name of {len(name)} characters"
    parts = name.count(".") + 1
    return f"has a name of {parts} parts" if parts > MAX_NAME_PARTS else ""


def element_count(shape: Iterable[int]) -> int | None:
    """The number of elements of a tensor; None where it is too large, or would be without its sizes of zero.

    The libraries multiply these sizes in 64 bits.
    """
    count, without_zeros = 1, 1
    for size in shape:
        count *= size
        without_zeros *= max(1, size)
        if without_zeros > MAX_ELEMENTS:
            return None
    return count
