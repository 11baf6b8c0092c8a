"""Gates in a real server: tests hold ComfyUI's threads at chosen places, and see which threads come by."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from multigpu.multigpu_core.provisioning.client import Workflow
from multigpu.multigpu_core.provisioning.server import ComfyUIServer

from .demo_server import beside, split

GATES = ("detach", "unload_all_models", "reset", "unload")
"""A model is unloaded; /free is carried out; the executor drops its outputs; our own unload runs."""

GATES_PACK = '''
import asyncio, hashlib, inspect, sys, threading
import comfy.model_management as mm, comfy.model_patcher, execution
from aiohttp import web
from server import PromptServer

SECONDS = 60
changed = threading.Condition()
armed, waiting, threads = set(), [], {}
arrived = 0

def passes(name):
    with changed:
        threads.setdefault(name, set()).add(threading.current_thread().name)
        if name not in armed:
            return
        waiting.append(name)
        changed.notify_all()
        changed.wait_for(lambda: name not in armed, SECONDS)
        waiting.remove(name)

def gate(owner, function, name=None):
    original = getattr(owner, function)
    def gated(*args, **kwargs):
        passes(name or function)
        return original(*args, **kwargs)
    gated.__signature__ = inspect.signature(original)
    setattr(owner, function, gated)

gate(comfy.model_patcher.ModelPatcher, "detach")
gate(execution.PromptExecutor, "reset")
gate(mm, "unload_all_models")

def gate_ours():
    tracked = sys.modules["multigpu.multigpu_core.comfy.memory.tracked_models"]
    gate(tracked.TrackedModels, "unload")

server = PromptServer.instance

async def started(app):
    gate_ours()

server.app.on_startup.append(started)

@web.middleware
async def count(request, handler):
    global arrived
    if request.path == "/multigpu/unload":
        with changed:
            arrived += 1
            changed.notify_all()
    return await handler(request)

server.app.middlewares.append(count)

@server.routes.post("/gates/arm")
async def arm(request):
    names = await request.json()
    with changed:
        armed.clear()
        armed.update(names)
        changed.notify_all()
    return web.json_response({})

@server.routes.post("/gates/wait")
async def wait(request):
    body = await request.json()
    def until():
        with changed:
            if "gate" in body:
                return changed.wait_for(lambda: body["gate"] in waiting, SECONDS)
            return changed.wait_for(lambda: arrived >= body["unloads"], SECONDS)
    return web.json_response(await asyncio.to_thread(until))

@server.routes.get("/gates/seen")
async def seen(request):
    return web.json_response({
        "threads": {name: sorted(those) for name, those in threads.items()}, "unloads": arrived, "waiting": waiting,
    })

@server.routes.post("/gates/revive")
async def revive(request):
    """Start another prompt worker, as main.py does."""
    server.prompt_queue.currently_running.clear()
    threading.Thread(target=Die.worker, args=(server.prompt_queue, server), daemon=True).start()
    return web.json_response({})

class Die:
    """Ends the prompt worker with a SystemExit, which no executor catches."""
    worker = None
    INPUT_TYPES = classmethod(lambda cls: {"required": {"words": ("STRING", {})}})
    IS_CHANGED = classmethod(lambda cls, words: float("nan"))
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "die"
    def die(self, words):
        frame = inspect.currentframe()
        while frame.f_code.co_name != "prompt_worker":
            frame = frame.f_back
        Die.worker = frame.f_globals["prompt_worker"]
        raise SystemExit(words)

class Digest:
    """What was sampled, as a checksum."""
    INPUT_TYPES = classmethod(lambda cls: {"required": {"samples": ("LATENT",)}})
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "digest"
    def digest(self, samples):
        content = samples["samples"].cpu().contiguous().numpy().tobytes()
        return {"ui": {"digest": [hashlib.sha256(content).hexdigest()]}}

NODE_CLASS_MAPPINGS = {"Die": Die, "Digest": Digest}
'''


def two_models(seed: int) -> Workflow:
    """Two split models, each with a checksum of what it sampled as `digest` and `digest again`."""
    return beside(*(_with_checksum(split(each, seed, 1)) for each in ("npu:0,50%;npu:1,50%", "npu:0,30%;cpu,70%")))


def _with_checksum(workflow: Workflow) -> Workflow:
    sampled = {name: workflow[name] for name in ("load", "lora", "prompt", "latent", "sample")}
    return {**sampled, "digest": {"class_type": "Digest", "inputs": {"samples": ["sample", 0]}}}


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any


@dataclass(frozen=True)
class GatedServer:
    """A ComfyUI with `GATES_PACK` in it, and a user who does several things at once."""

    server: ComfyUIServer
    hands: ThreadPoolExecutor

    def arm(self, *gates: str) -> None:
        """Close these gates and open all others."""
        self.server.client.post("/gates/arm", gates)

    def held_at(self, gate: str) -> bool:
        """Wait until a thread stands at `gate`, or say that none came."""
        return bool(self.server.client.post("/gates/wait", {"gate": gate}))

    def seen(self) -> Any:
        return self.server.client.get("/gates/seen")

    def post(self, route: str, body: object, headers: Sequence[tuple[str, str]] = ()) -> Answer:
        request = urllib.request.Request(f"http://{self.server.client.address}{route}", json.dumps(body).encode())
        for name, value in (("Content-Type", "application/json"), *headers):
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return Answer(answer.status, _body(answer.read()))
        except urllib.error.HTTPError as error:
            return Answer(error.code, _body(error.read()))

    def unload(self, key: int) -> Future[Answer]:
        """Ask for a model to be unloaded; the request has arrived when this returns."""
        before = self.seen()["unloads"]
        answer = self.hands.submit(self.post, "/multigpu/unload", {"key": key})
        assert self.server.client.post("/gates/wait", {"unloads": before + 1})
        return answer

    def state(self) -> Any:
        return self.server.client.get("/multigpu/state", timeout_seconds=20)

    def keys(self) -> list[int]:
        """The keys of the split models that are loaded."""
        return [model["ours"]["key"] for model in self.state()["models"] if model["split"]]

    @contextmanager
    def gates_closed(self, *gates: str) -> Iterator[None]:
        self.arm(*gates)
        try:
            yield
        finally:
            self.arm()


def _body(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode()
