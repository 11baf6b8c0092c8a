"""TOML, with the lines on which keys stand. Whatever a file holds costs linear time, and ValueError at most."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from multigpu.multigpu_core.files import read_bounded

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PART = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
_TABLE = re.compile(rf"\s*\[\[?\s*({_DOTTED})\s*\]")
_KEY = re.compile(rf"\s*({_DOTTED})\s*=")

MAX_BYTES = 256 * 1024
"""Far above any plugins.toml or pyproject.toml."""
MAX_DEPTH = 32
"""Arrays and tables inside each other, and parts of a dotted key: the parser is recursive, and quadratic in these."""
# What decides on depth, and the strings and comments to pass over. Every alternative takes what it began to the end of
# the text if need be, so that no character is looked at twice.
_STRUCTURE = re.compile(
    r'''"""(?:[^"\\]|\\.|"(?!""))*(?:"{3,5}|\Z)?|"(?:[^"\\\n]|\\.)*"?|'''
    r"""'''(?:[^']|'(?!''))*(?:'{3,5}|\Z)?|'[^'\n]*'?|#[^\n]*|[\[\]{}.,=\n]""",
    re.DOTALL,
)


def read_toml(path: Path) -> dict[str, Any]:
    """Return a file's contents.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no TOML, not UTF-8, too large, or nested too deeply.
    """
    return _parsed(_text(path))


def read_toml_with_lines(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """Return a file's contents, and the line on which each key stands. Raises what `read_toml` does."""
    text = _text(path)
    return _parsed(text), lines_of_keys(text)


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
    return read_bounded(path, MAX_BYTES).decode("utf-8-sig")  # some editors on Windows begin with a byte-order mark


def _parsed(text: str) -> dict[str, Any]:
    text = text.replace("\r\n", "\n")
    _refuse_depth(text)
    try:
        return tomllib.loads(text)
    except (RecursionError, OverflowError, MemoryError) as error:
        raise ValueError(f"it cannot be parsed ({type(error).__name__})") from error


def _refuse_depth(text: str) -> None:
    line, depth, parts = 1, 0, 1
    for match in _STRUCTURE.finditer(text):
        token = match[0]
        if token in "[{":
            depth += 1
        elif token in "]}":
            depth -= 1
        parts = parts + 1 if token == "." else parts if token[0] in "\"'#" else 1
        if depth > MAX_DEPTH or parts > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} levels are nested at line {line}")
        line += token.count("\n")
