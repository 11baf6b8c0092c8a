"""How users write devices: ``cuda:1``, ``CUDA``, ``gpu:0``, and what they may have meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple

ANY_ACCELERATOR = "gpu"
"""ComfyUI's own family name: ``gpu:N`` is the N-th device beside the cpu."""

MAX_CHARACTERS = 1000
"""A longer text is no device. Python refuses to read numbers of more than 4,300 digits."""
_SPELLING = re.compile(r"\s*(?P<family>[a-z]\w*)\s*(?::\s*(?P<index>[0-9]+)\s*)?", re.IGNORECASE)


_OF_ANOTHER_MACHINE = re.compile(r"\s*[a-z][a-z0-9-]*\s*/\s*[a-z]\w*\s*(:\s*[0-9]+\s*)?", re.IGNORECASE)
OF_ANOTHER_MACHINE = (
    "It is a device of another machine. Those run text encoders and VAEs as a whole, in the MultiGPU variants of "
    "CLIPLoader, DualCLIPLoader, TripleCLIPLoader, QuadrupleCLIPLoader and VAELoader. They store no weights for a "
    "device of this machine: over 1 Gbit/s each GB would take 8.6 s in every step, where the cpu takes less than 0.1 s."
)


def is_of_another_machine(text: str) -> bool:
    """Whether `text` is written like a device of another machine: ``node2/cuda:0``."""
    return len(text) <= MAX_CHARACTERS and _OF_ANOTHER_MACHINE.fullmatch(text) is not None


class Spelling(NamedTuple):
    """A device as written, in lower case; without an index the family's first device is meant."""

    family: str
    position: int


def read_spelling(text: str) -> Spelling | None:
    """Read `text`; None if it cannot be a device at all."""
    match = _SPELLING.fullmatch(text) if len(text) <= MAX_CHARACTERS else None
    return Spelling(match["family"].lower(), int(match["index"] or 0)) if match else None


def nearest_name(text: str, names: Sequence[str]) -> str | None:
    """The one of `names` that `text` most likely means: of the same family if there is any, else by its letters."""
    spelling = read_spelling(text)
    if spelling is not None:
        relatives = [name for name in names if _is_of_family(name, spelling.family)]
        if relatives:
            return relatives[min(spelling.position, len(relatives) - 1)]
    if len(text) > MAX_CHARACTERS:
        return None
    return next(iter(get_close_matches(text.strip().lower(), names, n=1, cutoff=0.6)), None)


def _is_of_family(name: str, family: str) -> bool:
    return name != "cpu" if family == ANY_ACCELERATOR else name.partition(":")[0] == family
