"""The tensors of a .safetensors file, from its header alone.

A header is refused that the safetensors library would refuse: what is planned here is loaded by that library later.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

from multigpu.multigpu_core.allocation.formats.file_format import FileFormat
from multigpu.multigpu_core.allocation.formats.header_error import (
    DOWNLOAD_AGAIN,
    MAX_TENSORS,
    HeaderError,
    element_count,
    fault_of_name,
)
from multigpu.multigpu_core.allocation.formats.stored_tensor import StoredTensor
from multigpu.multigpu_core.bounded_json import parse_json

MAX_HEADER_BYTES = 16 * 1024 * 1024
"""Far above any real header (a 10,000-tensor checkpoint has about 1 MB); the format itself would allow 100 MB."""

_NO_MODEL = "this is not a .safetensors or .gguf file: choose one, or download it again"
_NEWER = "the file is damaged, or of a newer format than this version knows"
_MAX_DIMENSIONS = 64
_LENGTH_BYTES = 8
_BYTE_BITS = 8
# Type codes of the format: the name that PyTorch gives the type, and its bits.
_TYPES = {
    "BOOL": ("bool", 8),
    "U8": ("uint8", 8),
    "I8": ("int8", 8),
    "U16": ("uint16", 16),
    "I16": ("int16", 16),
    "U32": ("uint32", 32),
    "I32": ("int32", 32),
    "U64": ("uint64", 64),
    "I64": ("int64", 64),
    "F4": ("float4_e2m1fn_x2", 4),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "F32": ("float32", 32),
    "F64": ("float64", 64),
    "C64": ("complex64", 64),
}


@dataclass(frozen=True)
class _Span:
    """A tensor and the bytes of the data section that it occupies."""

    tensor: StoredTensor
    begin: int
    end: int


def read_safetensors_header(path: Path) -> list[StoredTensor]:
    """Every tensor of the file, in the order of their data; reads the header only.

    Raises HeaderError for a file that is truncated, damaged or not a safetensors file, OSError where it cannot be read.
    """
    with path.open("rb") as file:
        file_bytes = os.fstat(file.fileno()).st_size
        header_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        data_bytes = file_bytes - _LENGTH_BYTES - header_bytes
        if header_bytes > MAX_HEADER_BYTES:
            reason = f"claims {header_bytes} bytes, more than any model needs; {_NO_MODEL}"
            raise HeaderError(path, "header length", reason)
        if file_bytes < _LENGTH_BYTES or data_bytes < 0:
            raise HeaderError(path, "header length", f"claims {header_bytes} bytes of {file_bytes}; {DOWNLOAD_AGAIN}")
        header = _parse(path, file.read(header_bytes))
    _check_metadata(path, header.pop("__metadata__", None))
    if len(header) > MAX_TENSORS:
        raise HeaderError(path, "header", f"lists {len(header)} tensors, more than any model has")
    spans = [_span(path, name, entry) for name, entry in header.items()]
    spans.sort(key=lambda span: (span.begin, span.end))
    _check_layout(path, spans, data_bytes)
    return [span.tensor for span in spans]


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        if not text.startswith(b"{"):
            raise ValueError("it does not begin with a brace")
        header: dict[str, Any] = parse_json(text)
    except ValueError as error:
        raise HeaderError(path, "header", f"is not the JSON of a .safetensors file ({error})") from error
    return header


def _check_metadata(path: Path, metadata: Any) -> None:
    is_text_by_name = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    if metadata is not None and not is_text_by_name:
        raise HeaderError(path, "__metadata__", "is not a table of strings")


def _span(path: Path, name: str, entry: Any) -> _Span:
    def refuse(reason: str) -> NoReturn:
        raise HeaderError(path, f"tensor {name[:200]!r}", reason)

    if fault := fault_of_name(name):
        refuse(fault)
    if not isinstance(entry, dict):
        refuse("has no description")
    code, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(code, str):
        refuse(f"has no dtype: {code!r:.80}")
    if not _are_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        refuse(f"has no shape: {shape!r:.80}")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        refuse(f"has no data_offsets: {offsets!r:.80}")
    begin, end = offsets
    if code not in _TYPES:
        refuse(f"has the unknown dtype {code!r:.80}; {_NEWER}")
    dtype, bits = _TYPES[code]
    if bits < _BYTE_BITS and shape and shape[-1] * bits % _BYTE_BITS:
        refuse(f"has rows of {shape[-1]} {code}, which is not a whole number of bytes")
    count = element_count(shape)
    if count is None or count * bits != (end - begin) * _BYTE_BITS:
        refuse(f"stores {end - begin} bytes, which is not {shape!r:.80} of {code}")
    return _Span(StoredTensor(name, dtype, end - begin), begin, end)


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _check_layout(path: Path, spans: list[_Span], data_bytes: int) -> None:
    """Check that the tensors cover the data, from its first byte to its last, and share no bytes."""
    covered = 0
    for span in spans:
        field = f"tensor {span.tensor.name[:200]!r}"
        if span.begin < covered:
            raise HeaderError(path, field, "overlaps the tensor before it")
        if span.begin > covered:
            raise HeaderError(
                path, field, f"begins at byte {span.begin}, and no tensor covers the bytes from {covered}"
            )
        if span.end > data_bytes:
            raise HeaderError(path, field, f"ends at byte {span.end} of {data_bytes}; {DOWNLOAD_AGAIN}")
        covered = span.end
    if covered < data_bytes:
        raise HeaderError(path, "data", f"has {data_bytes - covered} bytes after the last tensor; {DOWNLOAD_AGAIN}")


def _recognises(begins: bytes) -> bool:
    """Whether these bytes are a length below 4 GB and the JSON object that it belongs to."""
    return begins[_LENGTH_BYTES // 2 : _LENGTH_BYTES + 1] == b"\0\0\0\0{"


FORMAT = FileFormat("safetensors", (".safetensors", ".sft"), _recognises, read_safetensors_header)
