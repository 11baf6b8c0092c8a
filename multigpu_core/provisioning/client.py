"""Talks to a ComfyUI server as its own page does: queues a workflow and follows it to its outputs or its error."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

Workflow = Mapping[str, Mapping[str, Any]]
"""A workflow in ComfyUI's API format: node id to ``class_type`` and ``inputs``."""

ANSWER_SECONDS = 2.0
REQUEST_SECONDS = 60.0


@dataclass(frozen=True)
class NodeProgress:
    """How far the node `node_id` is: `value` of `maximum` steps; 0 of 0 when it starts."""

    node_id: str
    class_type: str
    value: int
    maximum: int


@dataclass(frozen=True)
class NodeFailure:
    """What one node complained of, at validation or while it ran."""

    node_id: str
    class_type: str
    message: str


class WorkflowError(RuntimeError):
    """A workflow was refused or failed; `failures` are the nodes at fault, in no certain order."""

    def __init__(self, summary: str, failures: tuple[NodeFailure, ...] = ()) -> None:
        self.failures = failures
        lines = [f"node {f.node_id} ({f.class_type}): {f.message}" for f in failures]
        super().__init__("\n".join([summary, *lines]))


@dataclass(frozen=True)
class WorkflowResult:
    """The outputs of a finished workflow: by node id, as ComfyUI's history has them."""

    prompt_id: str
    outputs: Mapping[str, Mapping[str, Any]]
    base_directory: Path

    def image_files(self) -> tuple[Path, ...]:
        """Every image that the workflow saved or previewed, as files on disk."""
        images = [image for output in self.outputs.values() for image in output.get("images", ())]
        return tuple(self.base_directory / i["type"] / i["subfolder"] / i["filename"] for i in images)


class ComfyUIClient:
    """One server at `address` (``host:port``), whose base directory is on this machine."""

    def __init__(self, address: str, base_directory: Path) -> None:
        self.address = address
        self.base_directory = base_directory

    def answers(self) -> bool:
        """Whether the server takes requests now."""
        try:
            self.get("/system_stats", timeout_seconds=ANSWER_SECONDS)
        except OSError:
            return False
        return True

    def get(self, route: str, timeout_seconds: float = REQUEST_SECONDS) -> Any:
        """The JSON that the server answers at `route`; raises `OSError` (`urllib.error.URLError`) if it does not."""
        with urllib.request.urlopen(f"http://{self.address}{route}", timeout=timeout_seconds) as response:
            return json.load(response)

    def post(self, route: str, body: object) -> Any:
        """Sends `body` as JSON and returns the JSON answered, None if the answer is empty; raises like `get`."""
        request = urllib.request.Request(f"http://{self.address}{route}", data=json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as response:
            content = response.read()
        return json.loads(content) if content else None

    def object_info(self) -> dict[str, Any]:
        """Every node class that the server offers, as its page sees them."""
        info: dict[str, Any] = self.get("/object_info")
        return info

    def run(
        self,
        workflow: Workflow,
        on_progress: Callable[[NodeProgress], None] | None = None,
        timeout_seconds: float = 600.0,
    ) -> WorkflowResult:
        """Queues `workflow` and waits for its end, telling `on_progress` of every step.

        Raises `WorkflowError` with the nodes at fault when it is refused or fails, or when the server goes away, and
        `TimeoutError` after `timeout_seconds`.
        """
        follow = self._queue_and_follow(workflow, on_progress or (lambda progress: None))
        prompt_id = asyncio.run(asyncio.wait_for(follow, timeout_seconds))
        outputs = self.get(f"/history/{prompt_id}")[prompt_id]["outputs"]
        return WorkflowResult(prompt_id, outputs, self.base_directory)

    async def _queue_and_follow(self, workflow: Workflow, on_progress: Callable[[NodeProgress], None]) -> str:
        client_id = uuid.uuid4().hex
        url = f"ws://{self.address}/ws?clientId={client_id}"
        # Listening comes first, or the end of a quick workflow would be missed.
        async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0) as events:
            prompt_id = await asyncio.to_thread(self._queue, workflow, client_id)
            async for message in events:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    continue
                event = json.loads(message.data)
                if event["data"].get("prompt_id") == prompt_id and _handle(event, workflow, on_progress):
                    return prompt_id
        raise WorkflowError("ComfyUI closed the connection before the workflow ended.")

    def _queue(self, workflow: Workflow, client_id: str) -> str:
        try:
            answer = self.post("/prompt", {"prompt": workflow, "client_id": client_id})
        except urllib.error.HTTPError as refusal:
            raise _refused(refusal.read()) from refusal
        prompt_id: str = answer["prompt_id"]
        return prompt_id


def _handle(event: dict[str, Any], workflow: Workflow, on_progress: Callable[[NodeProgress], None]) -> bool:
    """Takes in one event of our workflow; true at its successful end, when its outputs are in the history."""
    kind, data = event["type"], event["data"]
    if kind in ("execution_error", "execution_interrupted"):
        message = f"{data.get('exception_type', kind)}: {data.get('exception_message', '')}".strip(": \n")
        failure = NodeFailure(str(data["node_id"]), data["node_type"], message)
        raise WorkflowError("The workflow failed.", (failure,))
    if kind in ("executing", "progress"):
        if data["node"] is None:
            return True
        node_id = str(data["node"])
        class_type = str(workflow.get(node_id, {}).get("class_type", ""))
        on_progress(NodeProgress(node_id, class_type, data.get("value", 0), data.get("max", 0)))
    return False


def _refused(body: bytes) -> WorkflowError:
    try:
        answer = json.loads(body)
    except ValueError:
        return WorkflowError(f"ComfyUI refused the workflow: {body.decode(errors='replace')}")
    error = answer.get("error", {})
    failures = [
        NodeFailure(node_id, node["class_type"], f"{problem['message']}: {problem['details']}")
        for node_id, node in (answer.get("node_errors") or {}).items()
        for problem in node["errors"]
    ]
    summary = error.get("message", error) if isinstance(error, dict) else error
    return WorkflowError(f"ComfyUI refused the workflow: {summary}", tuple(failures))
