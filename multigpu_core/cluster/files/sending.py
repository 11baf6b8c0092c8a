"""Send a model file to a worker's machine, unless it has it: in pieces, each after the last."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from multigpu.multigpu_core.cluster.connection import Connection

from .identity import FileIdentity

PIECE_BYTES = 16 << 20
Progress = Callable[[int, int], None]
"""Called with the bytes that are there, and the size."""


def send_if_missing(
    connection: Connection,
    path: Path,
    identity: FileIdentity,
    progress: Progress = lambda done, size: None,
    is_interrupted: Callable[[], bool] = lambda: False,
) -> int:
    """Make sure that the file is there. Returns the bytes that had to be sent.

    Raises:
        ClusterError, InterruptedError: as a call does. What was sent stays there, and the next attempt goes on.
        OSError: the file cannot be read.
    """
    begun = done = int(connection.call("file.look", **identity.values))
    with path.open("rb") as file:
        file.seek(done)
        while done < identity.size_bytes:
            piece = torch.from_numpy(np.frombuffer(bytearray(file.read(PIECE_BYTES)), np.uint8))
            done = int(connection.call("file.write", is_interrupted, offset=done, piece=piece, **identity.values))
            progress(done, identity.size_bytes)
    return done - begun
