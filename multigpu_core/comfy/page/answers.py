"""The responses of our routes: JSON without the machine's folders and without tracebacks."""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

_TRACEBACK = "Traceback (most recent call last)"
_ROOT = r"(?:file:/+|[A-Za-z]:[\\/]|\\\\|/)"
_ABSOLUTE_PATH = re.compile(
    rf"""'(?P<single>{_ROOT}[^'\n]+)'|"(?P<double>{_ROOT}[^"\n]+)"|(?<![\w.~/\\:-])(?P<bare>{_ROOT}[^\s'"<>|,;:]+)"""
)
"""In quotes a path may have spaces. Each part of a text is looked at once: the time is linear in its length."""


def answer(data: Any, status: int = 200) -> web.Response:
    """Answer with JSON in which no string has an absolute path or a traceback."""
    return web.json_response(_presentable(data), status=status)


def refusal(status: int, message: str) -> web.Response:
    return answer({"message": message}, status)


def without_paths(text: str) -> str:
    """`text` with each absolute path cut down to its last part, and each traceback to its last line."""
    if _TRACEBACK in text:
        text = text[: text.index(_TRACEBACK)] + text.rstrip().rsplit("\n", 1)[-1]
    return _ABSOLUTE_PATH.sub(_last_part, text)


def _last_part(found: re.Match[str]) -> str:
    path = found["single"] or found["double"] or found["bare"]
    parts = [part for part in re.split(r"[\\/]+", path) if part]
    return found[0].replace(path, parts[-1] if parts else path)


def _presentable(data: Any) -> Any:
    if isinstance(data, str):
        return without_paths(data) if "/" in data or "\\" in data or _TRACEBACK in data else data
    if isinstance(data, dict):
        return {key: _presentable(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_presentable(value) for value in data]
    return data
