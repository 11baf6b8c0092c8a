"""HTTP routes: what is loaded where, actions on it, plans made in advance, and the report on plugins."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Annotated, Any

import structlog
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from multigpu.multigpu_core.allocation.planner.plan import block_shares
from multigpu.multigpu_core.comfy.any_node.kept.kept_models import KeptModel
from multigpu.multigpu_core.comfy.host.comfyui_names import WAY_OUT
from multigpu.multigpu_core.comfy.host.compatibility import Feature
from multigpu.multigpu_core.comfy.host.host import prompt_server
from multigpu.multigpu_core.comfy.host.prompt_worker import PromptRunningError, PromptWorker, WorkerUnavailableError
from multigpu.multigpu_core.comfy.memory.tracked_models import TrackedModels, UnknownModelError
from multigpu.multigpu_core.comfy.nodes.loading import LoadContext
from multigpu.multigpu_core.devices import ProfileError
from multigpu.multigpu_core.plugins import PluginManager, report_json

from .allocation_preview import PreviewRequest, preview
from .answers import answer, refusal
from .panel_state import panel_state
from .requests import body_of, require_sender
from .speeds import NotIdleError, SpeedMeasurement

log = structlog.get_logger("multigpu")

GONE = "This model is no longer loaded."
OFF = f"This ComfyUI has changed: {{}}. {WAY_OUT}"


class ModelKey(BaseModel):
    """Which of the models in `GET /multigpu/state`."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    key: Annotated[int, Field(ge=1)]


class KeepRequest(ModelKey):
    keep_loaded: bool


def add_routes(context: LoadContext, plugins: PluginManager, worker: PromptWorker, kept: Iterable[KeptModel]) -> None:
    """Add our routes under `/multigpu` to ComfyUI's server; without a server (a script that imports ComfyUI) nothing.

    Nor is anything added to a ComfyUI in which requests cannot be served safely (`Feature.PANEL`).

    What is sent is validated and refused with what is wrong: 400, 403 or 415 where a page of another site may have sent
    it, 413 where it is too long, 404 for a model that is gone, 409 while a prompt runs or where it cannot be done, 501
    where this ComfyUI lacks what it takes, 503 where ComfyUI's prompt worker has died.
    """
    running = prompt_server()
    if running is None or Feature.PANEL in context.missing:
        return
    routes = running.routes
    measurement = SpeedMeasurement(context.host.registry, running, worker)

    @routes.get("/multigpu/models")  # type: ignore[untyped-decorator]
    async def list_models(request: web.Request) -> web.Response:
        return answer(split_models(context.models))

    @routes.get("/multigpu/plugins")  # type: ignore[untyped-decorator]
    async def list_plugins(request: web.Request) -> web.Response:
        records = report_json(list(plugins.records.values()))
        return answer([{name: value for name, value in each.items() if name != "traceback"} for each in records])

    @routes.get("/multigpu/state")  # type: ignore[untyped-decorator]
    async def state(request: web.Request) -> web.Response:
        return answer(panel_state(context, worker, kept))

    @routes.post("/multigpu/plan")  # type: ignore[untyped-decorator]
    async def plan(request: web.Request) -> web.Response:
        wanted = await body_of(request, PreviewRequest)
        return answer(await asyncio.to_thread(preview, wanted, context.host, context.plan))

    @routes.post("/multigpu/keep")  # type: ignore[untyped-decorator]
    async def keep(request: web.Request) -> web.Response:
        wanted = await body_of(request, KeepRequest)
        if Feature.KEEPING in context.missing:
            return refusal(501, OFF.format(context.missing[Feature.KEEPING]))
        try:
            context.models.set_keep(wanted.key, wanted.keep_loaded)
        except UnknownModelError:
            return refusal(404, GONE)
        return answer({})

    @routes.post("/multigpu/unload")  # type: ignore[untyped-decorator]
    async def unload(request: web.Request) -> web.Response:
        wanted = await body_of(request, ModelKey)
        if Feature.IDLE_WORK in context.missing:
            return refusal(501, OFF.format(context.missing[Feature.IDLE_WORK]))
        return await _unload(context.models, worker, wanted.key)

    @routes.post("/multigpu/profile")  # type: ignore[untyped-decorator]
    async def profile(request: web.Request) -> web.Response:
        await require_sender(request)
        try:
            await asyncio.to_thread(measurement.run)
        except (NotIdleError, ProfileError) as error:
            return refusal(409, str(error))
        return answer({})


async def _unload(models: TrackedModels, worker: PromptWorker, key: int) -> web.Response:
    """Have the prompt worker unload one model, and answer when it has."""
    try:
        await worker.run(lambda: models.unload(key))
    except UnknownModelError:
        return refusal(404, GONE)
    except PromptRunningError:
        return refusal(409, "A prompt is running. Unload the model when it has ended.")
    except WorkerUnavailableError as error:
        return refusal(503, str(error))
    except Exception:
        log.exception("unload_failed", message="A model could not be unloaded from the panel")
        return refusal(500, "The model could not be unloaded: see ComfyUI's log for the reason.")
    return answer({})


def split_models(models: TrackedModels) -> list[dict[str, Any]]:
    """The split models that are loaded, with plan, real bytes and transfers; sizes in bytes."""
    return [
        {
            "name": tracked.name,
            "compute_device": residency.plan.compute_device,
            "strategy": residency.plan.strategy.name,
            "expert_string": residency.plan.expert_string,
            "planned_bytes": residency.plan.bytes_by_device,
            "bytes_by_device": residency.bytes_by_device,
            "step_transfer_bytes": residency.step_transfer_bytes,
            "total_transfer_bytes": residency.total_transfer_bytes,
            "staging_bytes": residency.staging_bytes,
            "step_seconds": residency.step_seconds,
            "blocks": [
                {"name": share.name, "kind": share.kind.value, "bytes": share.size_bytes, "device": share.device}
                for share in block_shares(residency.plan.placements)
            ],
        }
        for tracked, residency in models.residencies()
    ]
