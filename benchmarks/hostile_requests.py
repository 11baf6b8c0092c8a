"""Made-up requests, valid and hostile, to our routes and to those of ComfyUI that free, interrupt and queue."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from multigpu.multigpu_core.cli.demo.models import DemoModels

JSON = "application/json"
READS = ("state", "models", "plugins")
ROUTES = ("plan", "keep", "unload", "profile", *READS, "", "..", "%2e%2e/etc/passwd", "state/1", "\u00e9")
KINDS = (JSON, JSON + "; charset=utf-8", "text/plain", "text/json", "application/x-www-form-urlencoded", "", "a/b; c")
# Without "http://[": ComfyUI's own check of origins answers an origin that is no address with 500, on every route.
ORIGINS = ("https://elsewhere.example", "null", "http://127.0.0.1:1", "x")
NAMES = ("../../etc/passwd", "/etc/passwd", "C:\\x", "x\x00y", "\x1b[31m", "no.safetensors", "\U0001f986" * 300, "")
SHARES = (
    "npu:0,50%;npu:1,50%",
    "npu:0,20%;cpu,*",
    "auto",
    "npu:9,1gb",
    "npu:0,",
    ";;",
    "9" * 3000,
    "npu:0,-1gb",
    "\u00bd",
)
VALUES: tuple[Any, ...] = (None, True, 0, -1, 1e308, 1 << 70, "", "cpu", [], {}, [[]] * 9, *NAMES)
BODIES = (
    b"",
    b"{",
    b"null",
    b"\xff\xfe",
    b"[" * 20_000,
    b'{"a":' * 5_000,
    b" " * 70_000,
    b'{"key": 1e400}',
    b"\x00" * 99,
    b'{"key":' + b"9" * 5000 + b"}",
)


@dataclass(frozen=True)
class Request:
    """One request; one that `is_cut_off` promises more than it sends, and its client leaves."""

    method: str
    route: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    is_cut_off: bool = False


def hostile_request(chance: random.Random, keys: Sequence[int]) -> Request:
    """Most are as they should be; `keys` are those of models that are loaded, or were."""
    draw = chance.random()
    if draw < 0.3:
        return Request("GET", f"/multigpu/{chance.choice(READS)}")
    if draw < 0.7:
        return _post(f"/multigpu/{(route := chance.choice(('plan', 'keep', 'unload')))}", _body(chance, route, keys))
    if draw < 0.75:
        return _post("/free", {"unload_models": chance.random() < 0.5, "free_memory": chance.random() < 0.5})
    if draw < 0.76:
        return _post("/interrupt", {})
    if draw < 0.78:
        return _post("/prompt", {"prompt": {"1": {"class_type": chance.choice(NAMES), "inputs": {}}}})
    method = chance.choice(("POST", "POST", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "HEAD"))
    route = chance.choice(("/multigpu/", "/multigpu/", "/api/multigpu/")) + chance.choice(ROUTES)
    headers = {"Content-Type": chance.choice(KINDS)}
    if chance.random() < 0.2:
        headers["Origin"] = chance.choice(ORIGINS)
    return Request(method, route, _damaged(chance, keys), headers, is_cut_off=chance.random() < 0.1 and route.isascii())


def _post(route: str, body: object) -> Request:
    return Request("POST", route, json.dumps(body).encode(), {"Content-Type": JSON})


def _body(chance: random.Random, route: str, keys: Sequence[int]) -> dict[str, Any]:
    if route == "keep":
        return {"key": _key(chance, keys), "keep_loaded": chance.random() < 0.3}
    if route == "unload":
        return {"key": _key(chance, keys)}
    name = DemoModels().diffusion_model if chance.random() < 0.8 else chance.choice(NAMES)
    return {
        "files": [{"input": "unet_name", "name": name}] * chance.choice((1, 1, 2, 8)),
        "part": chance.choice((None, None, "diffusion_model", "vae")),
        "compute_device": chance.choice(("npu:0", "npu:1", "cpu", "npu:7")),
        "virtual_vram_gb": chance.choice((0.0, 0.001, 4.0, 1e300)),
        "donor_device": chance.choice(("cpu", "npu:1", "npu:1,cpu", "x")),
        "expert": chance.choice(("", *SHARES)),
        "strategy": chance.choice(("interleave", "contiguous", "relay")),
        "weight_dtype": chance.choice(("default", "fp8_e4m3fn", "x")),
    }


def _key(chance: random.Random, keys: Sequence[int]) -> int:
    return chance.choice(keys) if keys and chance.random() < 0.8 else chance.randrange(1, 1000)


def _damaged(chance: random.Random, keys: Sequence[int]) -> bytes:
    """A body with another value, without a field or with one more; or no JSON."""
    way = chance.randrange(5)
    if way == 0:
        return chance.choice(BODIES)
    body = _body(chance, chance.choice(("plan", "keep", "unload")), keys)
    name = chance.choice(list(body))
    if way == 1:
        body[name] = chance.choice(VALUES)
    elif way == 2:
        del body[name]
    elif way == 3:
        body[chance.choice(("more", "__class__", ""))] = chance.choice(VALUES)
    text = json.dumps(body).encode()
    if way == 4:
        at = chance.randrange(len(text))
        text = text[:at] + chance.randbytes(chance.randrange(4)) + text[at + chance.randrange(9) :]
    return text
