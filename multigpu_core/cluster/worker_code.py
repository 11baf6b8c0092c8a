"""What runs in a worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class WorkerCode:
    """`entry`, ``module:function``, makes a worker's operations for a device by its name there.

    `others` are packages and modules that it needs beside ours and those that are installed there.
    """

    entry: str
    others: tuple[Path, ...] = ()
