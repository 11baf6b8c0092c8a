"""One tensor as listed by a file's header or a live module."""

from __future__ import annotations

from typing import NamedTuple


class StoredTensor(NamedTuple):
    """One tensor of a model, counted once.

    `aliases` are its other paths through the same module; `tied` are its names in other modules.
    """

    name: str
    dtype: str
    size_bytes: int
    aliases: tuple[str, ...] = ()
    tied: tuple[str, ...] = ()
