"""HTTP routes: what is loaded where, what may be done about it, plans made in advance, and the report on plugins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import server
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from multigpu.multigpu_core.comfy.loading import LoadContext
from multigpu.multigpu_core.comfy.ours import OurModels
from multigpu.multigpu_core.devices import ProfileError
from multigpu.multigpu_core.plugins import PluginManager, report_json

from .allocation_preview import PreviewRequest, preview
from .panel_state import panel_state
from .speeds import NotIdleError, SpeedMeasurement

MOST_BODY_BYTES = 64 * 1024
Body = TypeVar("Body", bound=BaseModel)


class ModelKey(BaseModel):
    """Which of the models in `GET /multigpu/state`."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    key: Annotated[int, Field(ge=1)]


class KeepRequest(ModelKey):
    keep_loaded: bool


def add_routes(context: LoadContext, plugins: PluginManager) -> None:
    """Add our routes under `/multigpu` to ComfyUI's server; without a server (a script that imports ComfyUI) nothing.

    What is sent is validated and refused with what is wrong: 400, 413 where it is too long, 404 for a model that is
    gone, 409 while a prompt runs or where it cannot be done.
    """
    prompt_server = getattr(server.PromptServer, "instance", None)
    if prompt_server is None:
        return
    routes = prompt_server.routes
    measurement = SpeedMeasurement(context.host.registry, prompt_server)

    @routes.get("/multigpu/models")  # type: ignore[untyped-decorator]
    async def list_models(request: web.Request) -> web.Response:
        return web.json_response(split_models(context.models))

    @routes.get("/multigpu/plugins")  # type: ignore[untyped-decorator]
    async def list_plugins(request: web.Request) -> web.Response:
        return web.json_response(report_json(plugins.records.values()))

    @routes.get("/multigpu/state")  # type: ignore[untyped-decorator]
    async def state(request: web.Request) -> web.Response:
        return web.json_response(panel_state(context, bool(prompt_server.prompt_queue.currently_running)))

    @routes.post("/multigpu/plan")  # type: ignore[untyped-decorator]
    async def plan(request: web.Request) -> web.Response:
        wanted = await _body(request, PreviewRequest)
        return web.json_response(await asyncio.to_thread(preview, wanted, context.host, context.plan))

    @routes.post("/multigpu/keep")  # type: ignore[untyped-decorator]
    async def keep(request: web.Request) -> web.Response:
        wanted = await _body(request, KeepRequest)
        return _done(lambda: context.models.set_keep(wanted.key, wanted.keep_loaded))

    @routes.post("/multigpu/unload")  # type: ignore[untyped-decorator]
    async def unload(request: web.Request) -> web.Response:
        wanted = await _body(request, ModelKey)
        return await asyncio.to_thread(_unload_while_idle, prompt_server.prompt_queue, context.models, wanted.key)

    @routes.post("/multigpu/profile")  # type: ignore[untyped-decorator]
    async def profile(request: web.Request) -> web.Response:
        try:
            await asyncio.to_thread(measurement.run)
        except (NotIdleError, ProfileError) as refusal:
            return _answer(409, str(refusal))
        return web.json_response({})


def split_models(models: OurModels) -> list[dict[str, Any]]:
    """The split models that are loaded, with plan, real bytes and transfers; sizes in bytes."""
    return [
        {
            "name": ours.name,
            "compute_device": residency.plan.compute_device,
            "strategy": residency.plan.strategy.value,
            "expert_string": residency.plan.expert_string,
            "planned_bytes": residency.plan.bytes_by_device,
            "bytes_by_device": residency.bytes_by_device,
            "step_transfer_bytes": residency.step_transfer_bytes,
            "total_transfer_bytes": residency.total_transfer_bytes,
            "staging_bytes": residency.staging_bytes,
            "step_seconds": residency.step_seconds,
            "blocks": [
                {"name": p.block.name, "kind": p.block.kind.value, "bytes": p.block.size_bytes, "device": p.device}
                for p in residency.plan.placements
            ],
        }
        for ours, residency in models.residencies()
    ]


def _unload_while_idle(queue: Any, models: OurModels, key: int) -> web.Response:
    with queue.mutex:  # no prompt begins meanwhile
        if queue.currently_running:
            return _answer(409, "A prompt is running. Unload the model when it has ended.")
        return _done(lambda: models.unload(key))


def _done(deed: Callable[[], None]) -> web.Response:
    try:
        deed()
    except KeyError:
        return _answer(404, "This model is gone.")
    return web.json_response({})


async def _body(request: web.Request, kind: type[Body]) -> Body:
    """The validated body of a request.

    Raises:
        web.HTTPException: the answer that says what is wrong with it.
    """
    content = bytearray()
    async for chunk in request.content.iter_any():
        content += chunk
        if len(content) > MOST_BODY_BYTES:
            raise web.HTTPRequestEntityTooLarge(MOST_BODY_BYTES, len(content))
    try:
        return kind.model_validate_json(bytes(content))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors(include_input=False)]
        raise web.HTTPBadRequest(text="; ".join(problems)) from None


def _answer(status: int, message: str) -> web.Response:
    return web.json_response({"message": message}, status=status)
