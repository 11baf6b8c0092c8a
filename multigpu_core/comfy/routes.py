"""HTTP routes: what is split and what it moves, and the report on plugins."""

from __future__ import annotations

from typing import Any

import server
from aiohttp import web

from multigpu.multigpu_core.plugins import PluginManager, report_json

from .ours import OurModels


def add_routes(models: OurModels, plugins: PluginManager) -> None:
    """Add `GET /multigpu/models` and `GET /multigpu/plugins` to ComfyUI's server.

    Without a server (a script that imports ComfyUI) nothing.
    """
    prompt_server = getattr(server.PromptServer, "instance", None)
    if prompt_server is None:
        return

    @prompt_server.routes.get("/multigpu/models")  # type: ignore[untyped-decorator]
    async def list_models(request: web.Request) -> web.Response:
        return web.json_response(split_models(models))

    @prompt_server.routes.get("/multigpu/plugins")  # type: ignore[untyped-decorator]
    async def list_plugins(request: web.Request) -> web.Response:
        return web.json_response(report_json(plugins.records.values()))


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
