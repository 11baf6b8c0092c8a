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

_PART = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
_TABLE = re.compile(rf"\s*\[\[?\s*({_DOTTED})\s*\]")
_KEY = re.compile(rf"\s*({_DOTTED})\s*=")


def read_toml(path: Path) -> dict[str, Any]:
    """A file's contents.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read. tomllib.TOMLDecodeError (a ValueError): it is no TOML.
    """
    return tomllib.loads(_text(path))


def read_toml_with_lines(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """A file's contents, and the line on which each key stands. Raises what `read_toml` does."""
    return read_toml(path), lines_of_keys(_text(path))


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
    return tuple(part.strip("\"'") for part in re.findall(_PART, dotted))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig")  # some editors on Windows begin a file with a byte-order mark
