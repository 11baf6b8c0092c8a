"""What is raised for a model file whose header cannot be trusted."""

from __future__ import annotations

from pathlib import Path


class HeaderError(ValueError):
    """A model file's header is truncated, damaged or not of its format.

    `path` is the file, `field` the part of the header that is wrong, `reason` what is wrong with it.
    """

    def __init__(self, path: Path, field: str, reason: str) -> None:
        super().__init__(f"{path}: {field}: {reason}")
        self.path = path
        self.field = field
        self.reason = reason


DOWNLOAD_AGAIN = "the file is truncated or damaged; download it again"
