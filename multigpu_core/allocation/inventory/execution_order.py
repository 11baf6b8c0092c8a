"""The order in which blocks run, from the places of their names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

_ORDER = tuple(
    re.compile(pattern)
    for pattern in (
        r"norm|(?:.*_)?in|distilled_guidance_layer",
        r".*embed.*",
        # What prepares the prompt, a picture or a control signal for the blocks.
        r"visual|vision_model|llm_adapter|lyric_encoder|txtfusion|.*_connector|control_adapter|context_refiner",
        r".*_refiner",
        r"block_1|encoder|down|(?:input|down|double|double_stream|text_transformer)_blocks?|"
        r"downsamples|double(?:_stream)?_layers|layerwise_blocks",
        r"",  # all others
        r"block_2|decoder|up|upsamples|(?:output|up|single|single_stream)_blocks?|single(?:_stream)?_layers",
        r"head|out|final_.*|nerf_blocks|.*_out|controlnet_(?:single_)?blocks",
    )
)
_USUAL_RANK = next(rank for rank, pattern in enumerate(_ORDER) if not pattern.pattern)
_NUMBER = re.compile(r"(?:block)?(\d{1,18})")

_BEFORE, _AFTER, _LAST = -0.5, 0.25, 0.5
_ALONG = (
    (re.compile(r"(.*?)(?:vace_blocks|face_adapter\.fuser_blocks|\w+_injector\.injector)"), "blocks", _LAST),
    (re.compile(r"(.*?)\w+_injector\.injector_adain_layers"), "blocks", _AFTER),
    (re.compile(r"(.*?)time_stack"), "transformer_blocks", _AFTER),
    (re.compile(r"(.*?)repo_layers"), "blocks", _BEFORE),
    (re.compile(r"(.*?(?:noise|context)_)repo_layers"), "refiner", _BEFORE),
)
"""Lists of blocks whose members run between those of another list beside them, evenly along it."""

_Place = tuple[int, float]


def in_execution_order(names: Iterable[str]) -> list[str]:
    """Sort blocks, given in the order of a file, which may be alphabetical, or of registration in a live module.

    Numbers count up, and well-known parts come in the order that every architecture runs them (embedders, what prepares
    the prompt, input or double blocks, the rest, output or single blocks, final layers). Unknown siblings stay as
    they are: a module registers them in the order of execution. The one list known to run from its highest number down
    is that of the `up` stages of image VAEs.
    """
    names = list(names)
    order = _Order(names)
    return sorted(names, key=order.key)


class _Order:
    """The places of the names of one model."""

    def __init__(self, names: list[str]) -> None:
        self._first_seen: dict[str, int] = {}
        self._ranks: dict[str, int] = {}
        self._length = _lengths(names)

    def key(self, name: str) -> tuple[_Place, ...]:
        places: list[_Place] = []
        path = ""
        for part in name.split("."):
            parent, path = path, f"{path}.{part}" if path else part
            along = self._along(parent, part)
            if along is not None:
                places = along
            else:
                places.append(self._place(path, part, parent))
        return tuple(places)

    def _place(self, path: str, part: str, parent: str) -> _Place:
        number = _NUMBER.fullmatch(part)
        if number:
            value = int(number.group(1))
            return _USUAL_RANK, -value if parent.endswith("decoder.up") else value
        if part not in self._ranks:
            self._ranks[part] = _rank(part)
        return self._ranks[part], self._first_seen.setdefault(path, len(self._first_seen))

    def _along(self, members: str, number: str) -> list[_Place] | None:
        """The places of a member of a list that runs along another one."""
        if not number.isdigit():
            return None
        for pattern, beside, offset in _ALONG:
            found = pattern.fullmatch(members)
            other = f"{found.group(1)}{beside}" if found else ""
            if other in self._length:
                at = int(number) * self._length[other] // self._length[members]
                return [*self.key(other), (_USUAL_RANK, at + offset)]
        return None


def _lengths(names: Iterable[str]) -> Mapping[str, int]:
    """How many members each list of blocks has."""
    members: defaultdict[str, set[str]] = defaultdict(set)
    for name in names:
        parts = name.split(".")
        for end, part in enumerate(parts):
            if part.isdigit():
                members[".".join(parts[:end])].add(part)
    return {path: len(numbers) for path, numbers in members.items()}


def _rank(part: str) -> int:
    return next((rank for rank, pattern in enumerate(_ORDER) if pattern.fullmatch(part)), _USUAL_RANK)
