"""Model files with mistakes in them: the same file for the same seed."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

_JSON_PIECES = (
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"null", b"-1", b"-0", b"1e99", b"9" * 30, b"9" * 5000, b'"dtype"',
    b'"F32"', b"[0,", b"\\u0000", b"\\ud800", b"true", b"NaN", b"[" * 2000, b" ", b"1.0", b"\xff",
)  # fmt: skip
_SAFETENSORS_TYPES = {"F32": 4, "BF16": 2, "U8": 1, "F64": 8, "F8_E4M3": 1, "BOOL": 1, "I64": 8, "F8_E8M0": 1}
_GGUF_TYPES = ((0, 1, 4), (1, 1, 2), (2, 32, 18), (8, 32, 34), (12, 256, 144), (24, 1, 1), (30, 1, 2))
"""Numbers of some types with their elements and their bytes in a block."""
_LARGE = (2**31, 2**32, 2**61, 2**63, 2**64 - 1)


def damaged_safetensors(chance: random.Random) -> bytes:
    """A small .safetensors file: sound in about one of four cases, else with mistakes in its tensors or its bytes."""
    tensors, data_bytes = _safetensors_tensors(chance)
    if chance.random() < 0.5:
        data_bytes = _spoil_tensors(chance, tensors, data_bytes)
    header: dict[str, Any] = {f"blocks.{index}.weight": tensor for index, tensor in enumerate(tensors)}
    if chance.random() < 0.3:
        header["__metadata__"] = chance.choice([{"format": "pt"}, {}, None, {"a": 1}, [], "text"])
    text = json.dumps(header).encode()
    if chance.random() < 0.1:
        text = text.replace(b"blocks.1.", b"blocks.0.")
    if chance.random() < 0.2:
        text += b" " * (-len(text) % 8)
    if chance.random() < 0.3:
        text = damaged(chance, text, _JSON_PIECES)
    length = len(text) if chance.random() < 0.97 else chance.choice([0, 1, len(text) + 1, len(text) - 1, *_LARGE])
    content = struct.pack("<Q", max(0, length)) + text + bytes(max(0, data_bytes))
    return damaged(chance, content) if chance.random() < 0.1 else content


def damaged_gguf(chance: random.Random) -> bytes:
    """A small .gguf file: sound in about one of four cases, else with mistakes in its fields, tensors or bytes."""
    is_odd = chance.random() < 0.4
    odd: Callable[[Any, Sequence[Any]], Any] = lambda usual, others: (  # noqa: E731
        chance.choice(others) if is_odd and chance.random() < 0.15 else usual
    )
    alignment = odd(chance.choice([8, 32, 64]), (0, 1, 4, 24, 33, 2**31))
    fields = [
        _string("general.alignment") + struct.pack("<II", odd(4, (5, 10)), alignment),
        _string("tokens") + struct.pack("<IIQ", 9, 8, odd(2, (0, 1, 3, *_LARGE))) + _string("a") + _string(""),
        _string(odd("nested", ("tokens", "GGUF.version")))
        + struct.pack("<IIQIQ", 9, 9, odd(1, (0, 2)), odd(4, (0, 8, 9, 13, 99)), 0),
        _string("number") + struct.pack("<IQ", odd(10, (8, 12, 13)), 7),
    ]
    fields = [field for field in fields if chance.random() < 0.5]
    used = alignment if any(b"general.alignment" in field for field in fields) else 32
    tensors, offset = [], 0
    for index in range(chance.randrange(4)):
        kind, block, block_bytes = chance.choice(_GGUF_TYPES)
        shape = [block * chance.randrange(4), *(chance.randrange(4) for _ in range(chance.randrange(3)))]
        size = block_bytes
        for each in (shape[0] // block, *shape[1:]):
            size *= each
        shape = odd(shape, ([], [33], [0], [2**32, 2**32], [0, *_LARGE], [1] * 9))
        name = odd(f"blk.{index}", ("blk.0", "", "a\x07", "blk" + ".0" * 40, "b" * 2000))
        head = _string(name) + struct.pack(f"<I{len(shape)}Q", odd(len(shape), (0, 1, 99)), *shape)
        tensors.append(head + struct.pack("<IQ", odd(kind, (3, 4, 99)), odd(offset, (0, offset + 1, 2**40))))
        offset += -(-size // max(1, used)) * max(1, used)
    counts = odd(len(tensors), (0, 1, 5, *_LARGE)), odd(len(fields), (0, 1, 5, *_LARGE))
    head = odd(b"GGUF", (b"GGML", b"")) + struct.pack("<IQQ", odd(3, (2, 1, 2**24)), *counts)
    content = head + b"".join(fields + tensors)
    padding = min(4096, -len(content) % max(1, used))
    content += bytes(padding + max(0, min(1 << 16, odd(offset, (offset - 1, 0)))))
    return damaged(chance, content) if chance.random() < 0.15 else content


def damaged(chance: random.Random, content: bytes, pieces: Sequence[bytes] = ()) -> bytes:
    """The content with one to three mistakes: bits, bytes left out or doubled, pieces put in, an end cut off."""
    changed = bytearray(content)
    for _ in range(chance.randrange(1, 4) if content else 0):
        begin = chance.randrange(len(changed) + 1)
        end = min(len(changed), begin + chance.randrange(9))
        way = chance.randrange(5)
        if way == 0 and begin < len(changed):
            changed[begin] ^= 1 << chance.randrange(8)
        elif way == 1:
            del changed[begin:end]
        elif way == 2:
            changed[begin:begin] = changed[begin:end]
        elif way == 3:
            changed[begin:end] = chance.choice(pieces) if pieces else chance.randbytes(chance.randrange(9))
        elif chance.random() < 0.3:
            del changed[begin:]
    return bytes(changed)


def _safetensors_tensors(chance: random.Random) -> tuple[list[dict[str, Any]], int]:
    """The descriptions of up to three tensors, and the bytes of their data."""
    tensors, offset = [], 0
    for _ in range(chance.randrange(4)):
        dtype, size = chance.choice(list(_SAFETENSORS_TYPES.items()))
        shape = [chance.randrange(5) for _ in range(chance.randrange(4))]
        for each in shape:
            size *= each
        tensors.append({"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]})
        offset += size
    return tensors, offset


def _spoil_tensors(chance: random.Random, tensors: list[dict[str, Any]], data_bytes: int) -> int:
    """Put one mistake into the descriptions; the bytes of data that the file then has."""
    if not tensors or chance.random() < 0.2:
        return data_bytes + chance.choice([-1, 1, 64, 4096])
    tensor = chance.choice(tensors)
    begin, end = tensor["data_offsets"]
    gap = chance.choice([-4, -1, 1, 4, *_LARGE])
    mistakes: list[dict[str, Any]] = [
        {"data_offsets": [begin + gap, end + gap]},
        {"data_offsets": [begin, end + gap]},
        {"data_offsets": chance.choice([[end, begin], [begin], [begin, end, end], None, [float(begin), end]])},
        {"dtype": chance.choice(["F31", "f32", "", None, 7, "F4", "F6_E2M3", "C64", "F32"])},
        {"shape": chance.choice([[*tensor["shape"], 0, *_LARGE], [*_LARGE, 0], [-1], [1.0], None, [True], [1] * 70])},
        {"more": chance.choice([1, None, [[]], 10**25])},
    ]
    tensor.update(chance.choice(mistakes))
    return data_bytes + (gap if chance.random() < 0.5 and abs(gap) < 9 else 0)


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()
