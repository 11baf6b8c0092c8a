"""The order in which blocks run, from the places of their names."""

from __future__ import annotations

import re
from collections.abc import Iterable

_RANKS = (
    (0, re.compile(r"(?:.*_)?in|.*embed.*|norm|distilled_guidance_layer")),
    (1, re.compile(r"block_1|encoder|down|(?:input|down|double|double_stream|text_transformer)_blocks?")),
    (1, re.compile(r"downsamples|double_layers|.*_refiner")),
    (3, re.compile(r"block_2|decoder|up|upsamples|(?:output|up|single|single_stream)_blocks?|single_layers")),
    (4, re.compile(r"head|out|final_.*|.*_out|controlnet_(?:single_)?blocks")),
)
_USUAL_RANK = 2
_NUMBER = re.compile(r"(?:block)?(\d{1,18})")


def order_as_registered(names: Iterable[str]) -> list[str]:
    """Blocks of a live module, given as registered: ComfyUI registers in the order of execution.

    The one known exception is the decoder of image VAEs, which runs its `up` stages from the highest number down.
    """
    return _ordered(names, ranked=False)


def order_as_known(names: Iterable[str]) -> list[str]:
    """Blocks of a file, given in file order, which may be alphabetical.

    Numbers count up, and well-known parts come in the order that every architecture runs them (embedders, input or
    double blocks, the rest, output or single blocks, final layers); unknown siblings stay as in the file.
    """
    return _ordered(names, ranked=True)


def _ordered(names: Iterable[str], *, ranked: bool) -> list[str]:
    first_seen: dict[str, int] = {}
    ranks: dict[str, int] = {}

    def place(path: str, part: str, parent: str) -> tuple[int, int]:
        number = _NUMBER.fullmatch(part)
        if number:
            value = int(number.group(1))
            return _USUAL_RANK, -value if parent.endswith("decoder.up") else value
        if ranked and part not in ranks:
            ranks[part] = _rank(part)
        return ranks.get(part, _USUAL_RANK), first_seen.setdefault(path, len(first_seen))

    def key(name: str) -> tuple[tuple[int, int], ...]:
        places, path = [], ""
        for part in name.split("."):
            parent, path = path, f"{path}.{part}" if path else part
            places.append(place(path, part, parent))
        return tuple(places)

    return sorted(names, key=key)


def _rank(part: str) -> int:
    return next((rank for rank, pattern in _RANKS if pattern.fullmatch(part)), _USUAL_RANK)
