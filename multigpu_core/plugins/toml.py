"""TOML, with the lines on which keys stand."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_TABLE = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]")
_KEY = re.compile(r"\s*([A-Za-z0-9_.\-\"']+)\s*=")


def read_toml(path: Path) -> dict[str, Any]:
    """A file's contents.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read. tomllib.TOMLDecodeError (a ValueError): it is no TOML.
    """
    return tomllib.loads(path.read_text(encoding="utf-8"))


def lines_of_keys(text: str) -> dict[tuple[str, ...], int]:
    """The line, counted from 1, on which each key or table first stands; keys by their full path."""
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if match := _TABLE.match(line):
            table = _path(match[1])
            lines.setdefault(table, number)
        elif match := _KEY.match(line):
            lines.setdefault((*table, *_path(match[1])), number)
    return lines


def _path(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))
