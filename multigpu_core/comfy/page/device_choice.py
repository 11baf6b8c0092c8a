"""The route that gives a node a choice of device while ComfyUI runs."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import asdict
from typing import Annotated

import structlog
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from multigpu.multigpu_core.comfy.any_node.creation import SelfLoadingNodes, UnknownNodeError, UnsuitableNodeError
from multigpu.multigpu_core.comfy.host.compatibility import Feature
from multigpu.multigpu_core.comfy.host.host import prompt_server

from .answers import answer, refusal
from .requests import body_of

log = structlog.get_logger("multigpu")


class NodeRequest(BaseModel):
    """A node by its id."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    node_id: Annotated[str, Field(min_length=1, max_length=500)]


def add_device_route(nodes: SelfLoadingNodes, missing: Container[Feature]) -> None:
    """Add `POST /multigpu/device-choice`: which node, and which of its inputs, chooses a node's device.

    A variant is made where there is none. 404 for a node that ComfyUI does not have, 409 for one that cannot be given
    a device.
    """
    running = prompt_server()
    if running is None or Feature.PANEL in missing:
        return

    @running.routes.post("/multigpu/device-choice")  # type: ignore[untyped-decorator]
    async def device_choice(request: web.Request) -> web.Response:
        wanted = await body_of(request, NodeRequest)
        try:
            # On the server's own thread: no listing of nodes is under way there.
            return answer(asdict(nodes.choice_for(wanted.node_id)))
        except UnknownNodeError as error:
            return refusal(404, str(error))
        except UnsuitableNodeError as error:
            return refusal(409, str(error))
        except Exception:  # a pack's class can fail in any way
            log.exception("variant_failed", message=f"{wanted.node_id} could not be given a choice of device")
            return refusal(500, f"{wanted.node_id} could not be given a device: see ComfyUI's log for the reason.")
