"""JSON from strangers: what is in it, or a ValueError, whatever it is."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multigpu.multigpu_core.bounded_json import MAX_DEPTH, depth_of, parse_json

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**64), 2**64), st.floats(-1e9, 1e9), st.text()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip
PIECES = st.lists(st.sampled_from(["[", "]", "{", "}", '"', "\\", '\\"', ",", ":", "1", "-0", "9" * 5000, "NaN", "é"]))


@given(VALUES)
@settings(max_examples=50)
def test_ordinary_json_is_read(value: object) -> None:
    assert parse_json(json.dumps(value).encode()) == value


@given(PIECES.map("".join))
def test_anything_else_is_a_value_error(text: str) -> None:
    with suppress(ValueError):
        parse_json(text.encode())


@given(VALUES)
@settings(max_examples=50)
def test_depth_counts_what_is_outside_of_strings(value: object) -> None:
    def depth(inner: object) -> int:
        if isinstance(inner, dict):
            return 1 + max(map(depth, inner.values()), default=0)
        return 1 + max(map(depth, inner), default=0) if isinstance(inner, list) else 0

    assert depth_of(json.dumps(value).encode()) == depth(value)


def test_depth_is_limited_whatever_the_recursion_limit_is() -> None:
    assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    for deep in (b"[" * (MAX_DEPTH + 1), b"[" * 1_000_000, b'{"a":' * 200_000):
        with pytest.raises(ValueError, match="nested"):
            parse_json(deep)


@pytest.mark.parametrize(
    "text", [b"9" * 400, b"9" * 5000, b"1e999", b"NaN", b"-Infinity", b'{"a":1,"a":1}', b"\xff", b"\xef\xbb\xbf1", b""]
)
def test_what_no_format_of_ours_holds_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)
