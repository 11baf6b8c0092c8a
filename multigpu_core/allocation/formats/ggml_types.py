"""The tensor types of GGUF files, from the table of the gguf package."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple


class GgmlType(NamedTuple):
    """One type: how many elements a quantised block has, and how many bytes it takes."""

    name: str
    block_elements: int
    block_bytes: int


@cache
def ggml_types() -> Mapping[int, GgmlType]:
    """Return every type by its number in GGUF files.

    The package is imported here because it takes a tenth of a second, and ComfyUI's start needs no GGUF file.
    """
    from gguf import GGML_QUANT_SIZES

    return {kind.value: GgmlType(kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}


@cache
def ggml_bits(name: str) -> float | None:
    """Return the bits of one element of the type `name`, or None if no type has this name."""
    return next(
        (8 * kind.block_bytes / kind.block_elements for kind in ggml_types().values() if kind.name == name), None
    )
