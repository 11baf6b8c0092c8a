"""The tensors of a .gguf file, from its header alone.

A header is refused that the gguf library would refuse: what is planned here is loaded by that library later.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

from multigpu.multigpu_core.allocation.formats.file_format import FileFormat
from multigpu.multigpu_core.allocation.formats.ggml_types import ggml_types
from multigpu.multigpu_core.allocation.formats.header_error import (
    DOWNLOAD_AGAIN,
    MAX_TENSORS,
    HeaderError,
    element_count,
    fault_of_name,
)
from multigpu.multigpu_core.allocation.formats.stored_tensor import StoredTensor

MAGIC = b"GGUF"
MAX_HEADER_BYTES = 64 * 1024 * 1024
"""Far above any real header (the largest tokenizers need about 20 MB)."""

_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_LEAST_ALIGNMENT = 8
_KEYS_OF_THE_LIBRARY = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count")
"""The gguf library keeps the counts among the metadata, under these keys."""
_MAX_NAME_BYTES = 65535
_MAX_DIMENSIONS = 8
_TYPES_OF_NUMPY = frozenset({"F16", "F32", "F64", "I8", "I16", "I32", "I64"})
"""Those that the gguf library hands out as they are; it counts the bytes in a row of all others."""
_MAX_ARRAY_DEPTH = 4
_MAX_FIELDS = 65536
_MAX_ITEMS = 3_000_000
"""Strings and nested arrays in all metadata; the largest tokenizers have under a million."""
_BUFFER_BYTES = 1024 * 1024

_UINT32, _STRING, _ARRAY = 4, 8, 9
# Metadata types of fixed size: u8, i8, u16, i16, u32, i32, f32, bool, u64, i64, f64.
_FIXED_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, _UINT32: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


class _Span(NamedTuple):
    """A tensor and where its data begins behind the header."""

    begin: int
    tensor: StoredTensor


def read_gguf_header(path: Path) -> list[StoredTensor]:
    """Every tensor of the file, in the order of their data; reads the header only and skips its metadata.

    Raises HeaderError for a file that is truncated, damaged or not a GGUF file of version 2 or 3, OSError where it
    cannot be read.
    """
    with path.open("rb", buffering=_BUFFER_BYTES) as file:
        reader = _Reader(path, file)
        tensor_count, field_count = _read_counts(reader)
        alignment = _read_alignment(reader, field_count)
        spans = sorted(_read_tensor(reader) for _ in range(tensor_count))
        data_begin = -(-reader.position // alignment) * alignment
        _check_layout(reader, spans, data_begin)
    return [span.tensor for span in spans]


class _Reader:
    """Reads forward in a header; never past its end, never by more than it checked to be there."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self.file_bytes = os.fstat(file.fileno()).st_size
        self._end = min(self.file_bytes, MAX_HEADER_BYTES)
        self._items_left = _MAX_ITEMS
        self.position = 0
        self.field = "header"

    def refuse(self, reason: str) -> NoReturn:
        raise HeaderError(self._path, self.field, reason)

    def take(self, size: int) -> bytes:
        self._advance(size)
        return self._file.read(size)

    def skip(self, size: int) -> None:
        self._advance(size)
        self._file.seek(self.position)

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def name(self, what: str) -> str:
        size = self.u64()
        if size > _MAX_NAME_BYTES:
            self.refuse(f"{what} claims {size} bytes; {DOWNLOAD_AGAIN}")
        try:
            name = self.take(size).decode()
        except UnicodeDecodeError:
            self.refuse(f"{what} is not text; {DOWNLOAD_AGAIN}")
        if not name.isprintable():
            self.refuse(f"{what} has control characters in it; {DOWNLOAD_AGAIN}")
        return name

    def count(self) -> int:
        """The number of items in an array whose items are to be gone through one by one."""
        count = self.u64()
        if count > self._items_left:
            self.refuse(f"claims {count} items, more than any model has; {DOWNLOAD_AGAIN}")
        self._items_left -= count
        return count

    def skip_strings(self, count: int) -> None:
        # Tokenizers keep hundreds of thousands of these: the loop is flat on purpose.
        if count > (self._end - self.position) // 8:
            self.refuse(f"claims {count} strings, more than the file holds; {DOWNLOAD_AGAIN}")
        read, seek, unpack, end, position = self._file.read, self._file.seek, _U64.unpack, self._end, self.position
        for _ in range(count):
            length = read(8)
            position += 8
            if len(length) == 8:
                size = unpack(length)[0]
                position += size
            if position > end or len(length) < 8:
                self.refuse(f"a string ends after the header; {DOWNLOAD_AGAIN}")
            seek(size, os.SEEK_CUR)
        self.position = position

    def _advance(self, size: int) -> None:
        if size > self._end - self.position:
            self.refuse(f"needs {size} bytes at byte {self.position}, past the end at {self._end}; {DOWNLOAD_AGAIN}")
        self.position += size


_U64 = struct.Struct("<Q")


def _read_counts(reader: _Reader) -> tuple[int, int]:
    reader.field = "magic"
    if reader.take(len(MAGIC)) != MAGIC:
        reader.refuse("this is not a .gguf file")
    reader.field = "version"
    version = reader.u32()
    if version not in _VERSIONS:
        big_endian = int.from_bytes(version.to_bytes(4, "big"), "little") in _VERSIONS
        found = "a big-endian file" if big_endian else f"version {version}"
        reader.refuse(f"{found} cannot be read; convert it to little-endian version {_VERSIONS[-1]}")
    reader.field = "tensor count"
    tensor_count = reader.u64()
    if tensor_count > MAX_TENSORS:
        reader.refuse(f"claims {tensor_count} tensors; {DOWNLOAD_AGAIN}")
    reader.field = "metadata count"
    field_count = reader.u64()
    if field_count > _MAX_FIELDS:
        reader.refuse(f"claims {field_count} fields; {DOWNLOAD_AGAIN}")
    return tensor_count, field_count


def _read_alignment(reader: _Reader, field_count: int) -> int:
    """Skips the metadata; of it only the alignment of the data matters here."""
    alignment = _DEFAULT_ALIGNMENT
    keys = set(_KEYS_OF_THE_LIBRARY)
    for index in range(field_count):
        reader.field = f"metadata field {index}"
        key = reader.name("its key")
        reader.field = f"metadata {key[:200]!r}"
        if key in keys:
            reader.refuse(f"appears twice; {DOWNLOAD_AGAIN}")
        keys.add(key)
        kind = reader.u32()
        if key == "general.alignment":
            if kind != _UINT32:
                reader.refuse(f"is of type {kind} instead of a 32-bit number")
            alignment = reader.u32()
            if alignment < _LEAST_ALIGNMENT or alignment & (alignment - 1):
                reader.refuse(f"{alignment} is not a power of two of at least {_LEAST_ALIGNMENT}")
        else:
            _skip_value(reader, kind, depth=0)
    return alignment


def _skip_value(reader: _Reader, kind: int, depth: int) -> None:
    if kind == _STRING:
        reader.skip(reader.u64())
    elif kind == _ARRAY:
        _skip_array(reader, depth)
    elif kind in _FIXED_BYTES:
        reader.skip(_FIXED_BYTES[kind])
    else:
        reader.refuse(f"has the unknown type {kind}; {DOWNLOAD_AGAIN}")


def _skip_array(reader: _Reader, depth: int) -> None:
    if depth >= _MAX_ARRAY_DEPTH:
        reader.refuse("arrays are nested too deeply")
    kind = reader.u32()
    if kind in _FIXED_BYTES:
        reader.skip(reader.u64() * _FIXED_BYTES[kind])
    elif kind == _STRING:
        reader.skip_strings(reader.count())
    else:
        for _ in range(reader.count()):
            _skip_value(reader, kind, depth + 1)


def _read_tensor(reader: _Reader) -> _Span:
    reader.field = f"tensor at byte {reader.position}"
    name = reader.name("its name")
    reader.field = f"tensor {name[:200]!r}"
    if fault := fault_of_name(name):
        reader.refuse(fault)
    dimensions = reader.u32()
    if dimensions > _MAX_DIMENSIONS:
        reader.refuse(f"claims {dimensions} dimensions")
    shape = [reader.u64() for _ in range(dimensions)]
    number, begin = reader.u32(), reader.u64()
    kind = ggml_types().get(number)
    if kind is None:
        reader.refuse(f"has the unknown type {number}; the file is damaged or of a newer format")
    if not shape and kind.name not in _TYPES_OF_NUMPY:
        reader.refuse(f"is {kind.name} without dimensions, which the gguf library cannot load")
    row = shape[0] if shape else 1
    if row % kind.block_elements:
        reader.refuse(f"its rows of {row} are not a whole number of {kind.name} blocks of {kind.block_elements}")
    count = element_count(shape)
    if count is None:
        reader.refuse(f"claims more elements than any model has; {DOWNLOAD_AGAIN}")
    return _Span(begin, StoredTensor(name, kind.name, count // kind.block_elements * kind.block_bytes))


def _check_layout(reader: _Reader, spans: list[_Span], data_begin: int) -> None:
    """Tensors have names of their own, share no bytes, and none ends behind the file."""
    names: set[str] = set()
    free_from = 0
    for begin, tensor in spans:
        reader.field = f"tensor {tensor.name[:200]!r}"
        if tensor.name in names:
            reader.refuse("appears twice")
        names.add(tensor.name)
        if begin < free_from:
            reader.refuse("overlaps the tensor before it")
        free_from = begin + tensor.size_bytes
        if data_begin + free_from > reader.file_bytes:
            reader.refuse(f"ends at byte {data_begin + free_from} of {reader.file_bytes}; {DOWNLOAD_AGAIN}")


FORMAT = FileFormat("gguf", (".gguf",), lambda begins: begins.startswith(MAGIC), read_gguf_header)
