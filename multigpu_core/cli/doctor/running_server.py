"""What a running ComfyUI reports about us over HTTP."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

USUAL_URL = "http://127.0.0.1:8188"
ANSWER_SECONDS = 3.0


@dataclass(frozen=True)
class RunningServer:
    """A ComfyUI at `url`: the arguments that it was started with, and our report on plugins, None where we are not.

    `silence` says why it did not answer; empty where it did. `worker_fault` is the last line of the error that ended
    its prompt worker; empty while that is alive.
    """

    url: str
    silence: str = ""
    arguments: tuple[str, ...] = ()
    plugins: Sequence[dict[str, Any]] | None = None
    worker_fault: str = ""


def running_server(url: str = "") -> RunningServer | None:
    """The one at `url`; without one that which is at ComfyUI's usual address, or None."""
    base = (url or USUAL_URL).rstrip("/")
    if "://" not in base:
        base = f"http://{base}"
    try:
        arguments = _get(f"{base}/system_stats")["system"].get("argv", ())
        plugins = _ours(base, "plugins")
        fault = str((_ours(base, "state") or {}).get("worker_fault") or "")
        return RunningServer(base, arguments=tuple(map(str, arguments)), plugins=plugins, worker_fault=fault)
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError) as error:
        return RunningServer(base, silence=f"{type(error).__name__}: {error}") if url else None


def _ours(base: str, route: str) -> Any:
    """What our route answers; None where this ComfyUI does not have it."""
    try:
        return _get(f"{base}/multigpu/{route}")
    except urllib.error.HTTPError:
        return None


def _get(url: str) -> Any:
    # Only http: a file:// would be read as readily.
    if not url.startswith(("http://", "https://")):
        raise ValueError("a server's address begins with http:// or https://")
    with urllib.request.urlopen(url, timeout=ANSWER_SECONDS) as answer:
        return json.load(answer)
