"""What is planned can be loaded: a file that we read is one that safetensors or gguf takes."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import gguf
import pytest
from safetensors import safe_open

from multigpu.multigpu_core.allocation import HeaderError
from multigpu.multigpu_core.allocation.formats.built_in.safetensors import _TYPES
from multigpu.multigpu_core.allocation.formats.header_error import MAX_NAME_PARTS, MAX_TENSORS
from multigpu.multigpu_core.allocation.inventory.of_file import inventory_of_file
from multigpu.multigpu_core.conformance.file_mutations import damaged_gguf, damaged_safetensors

from ...conftest import Steps


def load_safetensors(path: Path) -> None:
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118  # it is no mapping
            file.get_tensor(name)


def load_gguf(path: Path) -> None:
    for tensor in gguf.GGUFReader(path).tensors:
        assert tensor.data.nbytes == tensor.n_bytes


def check_one(path: Path, content: bytes) -> bool:
    """Whether we take the file; one that we take the library has to load."""
    path.write_bytes(content)
    try:
        inventory_of_file(path)
    except HeaderError as error:
        assert str(path) in str(error)
        return False
    (load_gguf if path.suffix == ".gguf" else load_safetensors)(path)
    return True


def check_many(path: Path, seed: int, count: int) -> None:
    chance = random.Random(seed)
    make = damaged_gguf if path.suffix == ".gguf" else damaged_safetensors
    taken = sum(check_one(path, make(chance)) for _ in range(count))
    assert 0.1 < taken / count < 0.9, "both sound and damaged files"


@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
def test_what_we_take_the_library_loads(tmp_path: Path, kind: str) -> None:
    check_many(tmp_path / f"case.{kind}", seed=1, count=600)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
def test_what_we_take_the_library_loads_in_many_cases(tmp_path: Path, kind: str) -> None:
    check_many(tmp_path / f"case.{kind}", seed=2, count=20_000)


def safetensors(header: object, data_bytes: int) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data_bytes)


def tensor(begin: int, end: int, dtype: str = "U8", shape: list[int] | None = None) -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


A, B = tensor(0, 8), tensor(8, 16)
NOT_ACCEPTED: dict[str, tuple[bytes, str]] = {
    "a hole": (safetensors({"a": A, "b": tensor(9, 17)}, 17), "no tensor covers the bytes from 8"),
    "a hole at the beginning": (safetensors({"a": tensor(1, 9)}, 9), "no tensor covers the bytes from 0"),
    "uncovered data": (safetensors({"a": A}, 9), "1 bytes after the last tensor"),
    "an overlap": (safetensors({"a": A, "b": tensor(7, 15)}, 15), "overlaps"),
    "an unknown dtype": (safetensors({"a": tensor(0, 8, "F31")}, 8), "unknown dtype 'F31'"),
    "another size": (safetensors({"a": tensor(0, 8, "U8", [7])}, 8), "stores 8 bytes"),
    "data past the end": (safetensors({"a": A, "b": B}, 15), "ends at byte 16 of 15"),
    "a name twice": (safetensors(b'{"a": %s, "a": %s}' % ((json.dumps(A).encode(),) * 2), 8), "twice"),
    "metadata that are no texts": (safetensors({"__metadata__": {"a": 1}, "a": A}, 8), "not a table of strings"),
    "a size that overflows on its way to zero": (
        safetensors({"a": tensor(0, 0, "U8", [2**62, 4, 0])}, 0), "stores 0 bytes"
    ),
    "half a byte": (safetensors({"a": tensor(0, 0, "F4", [0, 3])}, 0), "not a whole number of bytes"),
    "another encoding": (safetensors(json.dumps({"a": A}).encode("utf-16"), 8), "does not begin with a brace"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NOT_ACCEPTED)
def test_a_file_that_safetensors_refuses_is_refused_with_its_name_and_the_reason(tmp_path: Path, kind: str) -> None:
    content, reason = NOT_ACCEPTED[kind]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    if kind != "a name twice":  # the library takes the last of them
        with pytest.raises(Exception):  # noqa: B017  # it has errors of many types
            load_safetensors(path)
    with pytest.raises(HeaderError) as refused:
        inventory_of_file(path)
    assert reason in str(refused.value) and str(path) in str(refused.value)


@pytest.mark.parametrize("dtype", _TYPES)
def test_every_dtype_that_we_know_is_one_of_safetensors(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors({"a": tensor(0, _TYPES[dtype][1], dtype, [8])}, _TYPES[dtype][1]))
    with safe_open(path, "pt") as file:
        assert list(file.keys()) == ["a"]
    assert inventory_of_file(path).total_bytes == _TYPES[dtype][1]


def many(count: int, name: str = "blocks.{}.weight") -> bytes:
    return safetensors({name.format(n): tensor(n, n + 1) for n in range(count)}, count)


def test_the_number_of_tensors_and_the_parts_of_a_name_are_limited(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    entry = json.dumps(tensor(0, 0)).encode()
    for header, reason in (
        (b"{" + b",".join(b'"%d":' % n + entry for n in range(MAX_TENSORS + 1)) + b"}", "more than any model has"),
        (json.dumps({"a" * 1001: A}).encode(), "1001 characters"),
        (json.dumps({".0" * MAX_NAME_PARTS: A}).encode(), f"{MAX_NAME_PARTS + 1} parts"),
    ):
        path.write_bytes(safetensors(header, 8))
        with pytest.raises(HeaderError, match=reason):
            inventory_of_file(path)


def test_twice_the_tensors_cost_twice_the_steps(tmp_path: Path, steps_of: Steps) -> None:
    steps = []
    for count in (200, 400):
        path = tmp_path / f"{count}.safetensors"
        path.write_bytes(many(count, "0.blocks" * 8 + ".{}.weight"))
        steps.append(steps_of(lambda path=path: inventory_of_file(path)))
    assert steps[1] < 2.2 * steps[0]
