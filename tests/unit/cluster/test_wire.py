"""What is sent arrives unchanged, and nothing but values and tensors is sent or read."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multigpu.multigpu_core.cluster import wire
from multigpu.multigpu_core.cluster.wire import Message, WireError, pack, unpack

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_values_arrive_as_they_were_with_their_types(value: Any) -> None:
    arrived = unpack(pack(value))
    assert arrived == value
    assert repr(arrived) == repr(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool])
def test_a_tensor_arrives_bit_for_bit(dtype: torch.dtype) -> None:
    tensor = torch.arange(24).reshape(2, 3, 4).to(dtype).transpose(0, 2)
    (arrived, [empty]) = unpack(pack((tensor, [torch.zeros(0, 3, dtype=dtype)])))
    assert arrived.dtype == dtype and arrived.shape == (4, 3, 2) and empty.shape == (0, 3)
    assert torch.equal(arrived.contiguous().view(torch.uint8), tensor.contiguous().view(torch.uint8))


def test_numbers_that_json_does_not_have_arrive() -> None:
    infinite, nothing = unpack(pack([math.inf, math.nan]))
    assert infinite == math.inf and math.isnan(nothing)


def test_a_tensor_is_the_receivers_own() -> None:
    message = pack([torch.zeros(3)])
    for buffer in message.buffers:
        buffer.setflags(write=False)  # as an engine's own memory is
    (arrived,) = unpack(message)
    arrived += 1
    assert message.buffers[0].sum() == 0


@pytest.mark.parametrize("value", [object(), {1, 2}, print, torch.nn.Linear(1, 1), b"bytes", torch.float32])
def test_nothing_else_is_sent(value: object) -> None:
    with pytest.raises(WireError, match="is not sent to another machine"):
        pack([value])


def test_a_value_that_goes_too_deep_is_refused() -> None:
    value: list[Any] = []
    for _ in range(wire.MAX_DEPTH + 2):
        value = [value]
    with pytest.raises(WireError, match="levels deep"):
        pack(value)
    with pytest.raises(WireError, match="levels deep"):
        unpack(Message(b"[" * 10_000 + b"]" * 10_000))


def test_a_message_that_is_too_large_is_refused_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    message = pack([torch.zeros(100)])
    monkeypatch.setattr(wire, "MAX_TENSOR_BYTES", 399)
    with pytest.raises(WireError, match="400 bytes is too large"):
        pack([torch.zeros(100)])
    with pytest.raises(WireError, match="400 bytes is too large"):
        unpack(message)


FORGED = {
    "another kind": {"object": "os.system"},
    "two kinds": {"tuple": [], "dict": []},
    "no kind": {},
    "a dtype that is none": {"tensor": [0, "save", [1]]},
    "a buffer that is not there": {"tensor": [7, "uint8", [1]]},
    "more values than bytes": {"tensor": [0, "float32", [100]]},
    "less than no values": {"tensor": [0, "uint8", [-1, -1]]},
    "a key that cannot be one": {"dict": [[[], 1]]},
}


@pytest.mark.parametrize("content", FORGED.values(), ids=FORGED)
def test_a_forged_message_builds_nothing(content: Any) -> None:
    with pytest.raises(WireError):
        unpack(Message(json.dumps(content).encode(), (np.zeros(1, np.uint8),)))
