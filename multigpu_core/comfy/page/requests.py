"""Validate requests that change something: JSON, of bounded size, from a page that may send it."""

from __future__ import annotations

from typing import TypeVar

import aiohttp
from aiohttp import web
from pydantic import BaseModel, ValidationError

from multigpu.multigpu_core.comfy.host.compatibility import flag, server

MOST_BODY_BYTES = 64 * 1024
JSON = "application/json"
ANY_ORIGIN = "*"
Body = TypeVar("Body", bound=BaseModel)


async def body_of(request: web.Request, kind: type[Body]) -> Body:
    """Return the validated body of a request.

    Raises:
        web.HTTPException: the answer that says what is wrong with the request.
    """
    await require_sender(request)
    content = await _content(request)
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors(include_input=False)]
        raise web.HTTPBadRequest(text="; ".join(problems)) from None


async def require_sender(request: web.Request) -> None:
    """Refuse what another site's page can have a browser send.

    A page may send other content types anywhere without asking, but JSON only where the browser has asked the server
    for leave. ComfyUI checks the origin itself, except with --enable-cors-header: then the origin that it names may
    send, and ComfyUI's own check holds for all others.

    Raises:
        web.HTTPException: 415 for another content type, 403 for another origin.
    """
    if request.content_type != JSON:
        raise web.HTTPUnsupportedMediaType(text=f"Send this request with the content type {JSON}.")
    if flag("enable_cors_header") in (None, ANY_ORIGIN, request.headers.get("Origin")):
        return
    refusal = web.HTTPForbidden(text="This origin is not the one that --enable-cors-header names.")
    try:
        checked = await server.create_origin_only_middleware()(request, _passed)
    except ValueError:  # the origin is no address
        raise refusal from None
    if checked.status != web.HTTPOk.status_code:
        raise refusal


async def _passed(request: web.Request) -> web.Response:
    return web.Response()


async def _content(request: web.Request) -> bytes:
    content = bytearray()
    try:
        async for chunk in request.content.iter_any():
            content += chunk
            if len(content) > MOST_BODY_BYTES:
                raise web.HTTPRequestEntityTooLarge(MOST_BODY_BYTES, len(content))
    except (ConnectionError, aiohttp.ClientPayloadError):
        raise web.HTTPBadRequest(text="The connection was closed before the end of the body.") from None
    return bytes(content)
