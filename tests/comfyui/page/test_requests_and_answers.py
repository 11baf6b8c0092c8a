"""Which pages may have our routes change something, and what answers never tell."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from ..support.in_process import ComfyUI

ALLOWED, FOREIGN = "https://ours.example", "https://elsewhere.example"


async def _status(app: web.Application, headers: dict[str, str]) -> int:
    async with TestClient(TestServer(app)) as client:
        answer = await client.post("/", data=b"{}", headers={"Content-Type": "application/json", **headers})
        return answer.status


def _app(monkeypatch: pytest.MonkeyPatch, allowed: str | None) -> web.Application:
    """A route of ours behind the middleware that ComfyUI has for `--enable-cors-header allowed`."""
    requests = importlib.import_module("multigpu.multigpu_core.comfy.page.requests")
    server = importlib.import_module("server")
    monkeypatch.setattr(importlib.import_module("comfy.cli_args").args, "enable_cors_header", allowed)
    of_comfyui = server.create_cors_middleware(allowed) if allowed else server.create_origin_only_middleware()
    app = web.Application(middlewares=[of_comfyui])

    async def handler(request: web.Request) -> web.Response:
        await requests.require_sender(request)
        return web.Response()

    app.router.add_post("/", handler)
    return app


@pytest.mark.parametrize(
    ("allowed", "headers", "status"),
    [
        (None, {}, 200),
        (None, {"Origin": FOREIGN}, 403),
        (None, {"Sec-Fetch-Site": "cross-site"}, 403),
        (ALLOWED, {}, 200),
        (ALLOWED, {"Origin": ALLOWED}, 200),
        (ALLOWED, {"Origin": ALLOWED, "Sec-Fetch-Site": "cross-site"}, 200),
        (ALLOWED, {"Origin": FOREIGN}, 403),
        (ALLOWED, {"Origin": "null", "Sec-Fetch-Site": "cross-site"}, 403),
        (ALLOWED, {"Origin": "http://[::1"}, 403),
        (ALLOWED, {"Origin": "http://127.0.0.1", "Host": "127.0.0.1"}, 200),
        ("*", {"Origin": FOREIGN, "Sec-Fetch-Site": "cross-site"}, 200),
    ],
)
def test_a_page_may_send_where_comfyui_lets_it(
    comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch, allowed: str | None, headers: dict[str, str], status: int
) -> None:
    assert asyncio.run(_status(_app(monkeypatch, allowed), headers)) == status


@pytest.fixture
def answers(comfyui: ComfyUI) -> Any:
    return importlib.import_module("multigpu.multigpu_core.comfy.page.answers")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/jo/models/flux.safetensors: header: bad", "flux.safetensors: header: bad"),
        ("[Errno 13] Permission denied: '/home/jo smith/x y.json'", "[Errno 13] Permission denied: 'x y.json'"),
        (r"C:\Users\jo\models\flux.gguf is damaged", "flux.gguf is damaged"),
        (r"open 'C:\\Users\\jo smith\\flux.gguf'", "open 'flux.gguf'"),
        (r"\\nas\share\flux.gguf, line 3", "flux.gguf, line 3"),
        ("(/opt/x/y.py)", "(y.py)"),
        ("user file /srv/plugins.toml", "user file plugins.toml"),
        ("/tmp", "tmp"),
        ('"/home/o\'neil/x y.json"', '"x y.json"'),
        ("a quote '/home/jo/x.json is not closed", "a quote 'x.json is not closed"),
        ("file:///home/jo/x.json", "x.json"),
        ("the folder /home/jo/models/ and // and / alone", "the folder models and // and / alone"),
        ("of /a/b and /c/d", "of b and d"),
        ("sub/flux.safetensors at 12 GB/s, see https://a.example/b/c", None),
        ("cond and/or uncond; n/a; 3 / 4; it's 'so' / 'so'", None),
        ('Traceback (most recent call last):\n  File "/a/b.py", line 1\nValueError: no', "ValueError: no"),
    ],
)
def test_paths_are_cut_down_to_names_and_tracebacks_to_their_last_line(
    answers: Any, text: str, told: str | None
) -> None:
    assert answers.without_paths(text) == (text if told is None else told)


def test_a_long_text_without_an_end_is_looked_at_in_linear_time(answers: Any) -> None:
    for text in ("'/" + "a" * 200_000, "'/a" * 20_000, "'/ \"" * 50_000, "/a" * 100_000, "C:\\" * 60_000):
        assert len(answers.without_paths(text)) <= len(text)


def test_all_strings_of_an_answer_are_looked_at(answers: Any) -> None:
    answer = answers.answer({"a": [{"b": "/x/y"}], "c": ("/x/z", 1.5, None, True)}, 409)
    assert answer.status == 409
    assert answer.text == '{"a": [{"b": "y"}], "c": ["z", 1.5, null, true]}'
    assert answers.refusal(404, "see /a/b").text == '{"message": "see b"}'
