"""Parse JSON that somebody else may have written: in linear time, with ValueError for everything that is wrong."""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any

MAX_DEPTH = 64
"""Arrays and objects inside each other. No file that is read here has more than five."""

MAX_NUMBER_CHARACTERS = 40
_BRACKETS = b"[{]}"
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in _BRACKETS)
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def parse_json(text: bytes) -> Any:
    """Return the value that `text`, UTF-8 without a byte-order mark, holds.

    Raises:
        ValueError: it is no JSON, nested too deeply, has a number that no format here needs, or a name twice in one
            object.
    """
    # Python's parser is recursive. How deep it may go is for every pack to change, so that is not left to it.
    if depth_of(text) > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
    decoded = text.decode("utf-8")
    return json.loads(
        decoded,
        object_pairs_hook=_object,
        parse_int=_integer,
        parse_float=_float,
        parse_constant=_refused,
    )


def depth_of(text: bytes) -> int:
    """How deeply arrays and objects are nested in JSON, in the part of it up to the first error."""
    # Without escaped characters every quotation mark begins or ends a string.
    unescaped = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside_strings = b"".join(unescaped.split(b'"')[::2])
    brackets = outside_strings.translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name appears twice in one object")
    return entries


def _integer(text: str) -> int | float:
    if len(text) > MAX_NUMBER_CHARACTERS:
        raise ValueError(f"a number has {len(text)} digits")
    return -0.0 if text == "-0" else int(text)  # as other parsers read it, and so no size


def _float(text: str) -> float:
    value = float(text) if len(text) <= MAX_NUMBER_CHARACTERS else float("inf")
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:MAX_NUMBER_CHARACTERS]} is too large")
    return value


def _refused(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")
