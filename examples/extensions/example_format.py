"""A file format: `.toy` files begin with TOY1, then one line `name dtype bytes` for each tensor, then an empty line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from multigpu import hookimpl
from multigpu.api import FileFormat, HeaderError, StoredTensor

MAGIC = b"TOY1\n"


def read_header(path: Path) -> list[StoredTensor]:
    header, end, _ = path.read_bytes().removeprefix(MAGIC).partition(b"\n\n")
    if not end:
        raise HeaderError(path, "header", "has no end; download the file again")
    lines = [line.split() for line in header.decode().splitlines()]
    return [StoredTensor(name, dtype, int(size)) for name, dtype, size in lines]


@hookimpl
def multigpu_file_formats() -> Iterable[FileFormat]:
    return [FileFormat("toy", (".toy",), lambda begins: begins.startswith(MAGIC), read_header)]
