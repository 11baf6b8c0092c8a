"""Valid and hostile requests to all our routes, beside running prompts: what fails, what answers give away, how long.

python benchmarks/attack_http.py [--json] [--requests N] [--seed N] [--keep FILE]

A real ComfyUI on simulated cards runs one prompt after the other on two split models; each has to sample what its seed
gave before. Meanwhile several clients read, plan, keep, unload, free and interrupt at random, and send broken bodies,
foreign content types and origins, and connections that end in the middle. No answer may be a 5xx or tell of a folder
or a traceback, and the prompt worker has to live. At last `GET /multigpu/state` is timed during an unload of 6 seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from hostile_requests import Request, hostile_request
from records import Record, report

from multigpu.multigpu_core.cli.demo.models import DemoModels, write_demo_models
from multigpu.multigpu_core.cli.demo.workflow import split_workflow
from multigpu.multigpu_core.provisioning.client import WorkflowError
from multigpu.multigpu_core.provisioning.prompt_pack import PROMPT_PACK
from multigpu.multigpu_core.provisioning.release import comfyui_folder
from multigpu.multigpu_core.provisioning.server import ComfyUIServer, install_custom_node
from multigpu.multigpu_core.provisioning.tiny_models import FluxShape

CLIENTS = 6
LOG_LINES = 80
SLOW_UNLOAD_SECONDS = 6.0
STATE_SECONDS = 0.1
ANSWER_SECONDS = 60.0
PLACES = ("npu:0,50%;npu:1,50%", "npu:0,30%;cpu,70%")
PROBE_PACK = """
import hashlib, time
import comfy.model_patcher
from aiohttp import web
from server import PromptServer

slow_seconds = []
detach = comfy.model_patcher.ModelPatcher.detach

def slow_detach(self, *args, **kwargs):
    time.sleep(slow_seconds.pop() if slow_seconds else 0)
    return detach(self, *args, **kwargs)

comfy.model_patcher.ModelPatcher.detach = slow_detach

@PromptServer.instance.routes.post("/attack/slow")
async def slow(request):
    slow_seconds.append(await request.json())
    return web.json_response({})

class Digest:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"samples": ("LATENT",)}})
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "digest"
    def digest(self, samples):
        content = samples["samples"].cpu().contiguous().numpy().tobytes()
        return {"ui": {"digest": [hashlib.sha256(content).hexdigest()]}}

NODE_CLASS_MAPPINGS = {"Digest": Digest}
"""


@dataclass
class Prompts:
    """Prompts, one after the other, until they are stopped."""

    server: ComfyUIServer
    chance: random.Random
    sampled: dict[int, list[str]] = field(default_factory=dict)
    seed: int = 0
    finished: int = 0
    interrupted: int = 0
    failure: BaseException | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        over = threading.Event()
        thread = threading.Thread(target=self._run, args=(over,))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def one(self) -> None:
        """Run one prompt.

        Raises:
            WorkflowError: it failed, and not because it was interrupted.
            AssertionError: it samples something else than before.
        """
        self.seed = self.chance.choice([seed for seed in range(3) if seed != self.seed])  # the last one is cached
        try:
            outputs = self.server.client.run(_workflow(self.seed)).outputs
        except WorkflowError as error:
            if "interrupted" not in str(error):
                raise
            self.interrupted += 1
            return
        self.finished += 1
        found = [outputs[f"digest {place}"]["digest"][0] for place in PLACES]
        assert self.sampled.setdefault(self.seed, found) == found, f"seed {self.seed}: other values"

    def _run(self, over: threading.Event) -> None:
        try:
            while not over.is_set():
                self.one()
        except BaseException as error:
            self.failure = error


def _workflow(seed: int) -> dict[str, Any]:
    """A prompt that samples with two models, each split in its own way."""
    nodes: dict[str, Any] = {
        "prompt": {"class_type": "MadeUpPrompt", "inputs": {}},
        "latent": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    }
    for place in PLACES:
        one = split_workflow(DemoModels(), "npu:0", place, 1)
        loader, lora, sampler = (f"{name} {place}" for name in ("load", "lora", "sample"))
        sampling = {**one["sample"]["inputs"], "seed": seed, "model": [lora, 0]}
        nodes[loader] = one["load"]
        nodes[lora] = {**one["lora"], "inputs": {**one["lora"]["inputs"], "model": [loader, 0]}}
        nodes[sampler] = {**one["sample"], "inputs": sampling}
        nodes[f"digest {place}"] = {"class_type": "Digest", "inputs": {"samples": [sampler, 0]}}
    return nodes


@dataclass
class Attack:
    """What came of the requests so far."""

    server: ComfyUIServer
    secrets: tuple[str, ...]
    statuses: Counter[int] = field(default_factory=Counter)
    keys: list[int] = field(default_factory=list)
    """Of the models that were loaded when the state was last asked for."""
    dropped: int = 0
    state_seconds: list[float] = field(default_factory=list)

    async def run(self, requests: int, seed: int) -> None:
        """Send so many requests, by several clients at once."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(ANSWER_SECONDS)) as session:
            numbers = iter(range(requests))
            chances = [random.Random(f"{seed} {client}") for client in range(CLIENTS)]
            await asyncio.gather(*(self._client(session, chance, numbers) for chance in chances))

    async def _client(self, session: aiohttp.ClientSession, chance: random.Random, numbers: Iterator[int]) -> None:
        for _ in numbers:
            request = hostile_request(chance, self.keys)
            if request.is_cut_off:
                await self._cut_off(request)
            else:
                await self._send(session, request)

    async def _send(self, session: aiohttp.ClientSession, request: Request) -> None:
        url = f"http://{self.server.client.address}{request.route}"
        begin = time.perf_counter()
        async with session.request(request.method, url, data=request.body, headers=request.headers) as answer:
            text = (await answer.read()).decode(errors="replace")
        if request == Request("GET", "/multigpu/state"):
            self.state_seconds.append(time.perf_counter() - begin)
            self.keys = [model["ours"]["key"] for model in json.loads(text)["models"] if model["ours"]]
        self.statuses[answer.status] += 1
        assert answer.status < 500, (answer.status, request, text[:500])
        if request.route.startswith("/multigpu"):
            told = [secret for secret in self.secrets if secret in text]
            assert not told, (told, request, text[:500])

    async def _cut_off(self, request: Request) -> None:
        """Promise more than is sent, and leave."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        head = f"{request.method} {request.route} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(request.body) + 9}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        writer.write(head.encode() + b"\r\n" + request.body)
        await writer.drain()
        writer.transport.abort()
        self.dropped += 1


def slow_unload(server: ComfyUIServer) -> tuple[float, list[float]]:
    """Unload a model in 6 seconds; returns what it took, and what each look at the state took meanwhile."""
    (key, *_) = (model["ours"]["key"] for model in server.client.get("/multigpu/state")["models"] if model["ours"])
    server.client.post("/attack/slow", SLOW_UNLOAD_SECONDS)
    begin = time.perf_counter()
    unloading = threading.Thread(target=server.client.post, args=("/multigpu/unload", {"key": key}))
    unloading.start()
    looks = []
    while unloading.is_alive():
        looks.append(_seconds_of(lambda: server.client.get("/multigpu/state")))
    return time.perf_counter() - begin, looks


def _seconds_of(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(requests: int, seed: int) -> Iterator[Record]:
    with tempfile.TemporaryDirectory(prefix="multigpu-attack-") as folder:
        base = Path(folder)
        install_custom_node(base, Path(__file__).parents[1], "multigpu-core")
        (base / "custom_nodes" / "prompt.py").write_text(PROMPT_PACK)
        (base / "custom_nodes" / "probe.py").write_text(PROBE_PACK)
        write_demo_models(base / "models", FluxShape(1, 2))
        environment = {"MULTIGPU_SIMULATE": "4gb,2gb", "OMP_NUM_THREADS": "1"}
        with ComfyUIServer(comfyui_folder(), base, arguments=("--cache-classic",), environment=environment) as server:
            prompts = Prompts(server, random.Random(seed))
            prompts.one()
            attack = Attack(server, (folder, str(comfyui_folder()), str(Path.home()) + "/", "Traceback"))
            begin = time.perf_counter()
            try:
                with prompts.running():
                    asyncio.run(attack.run(requests, seed))
                seconds = time.perf_counter() - begin
                if prompts.failure is not None:
                    raise prompts.failure
                prompts.one()
            except (AssertionError, WorkflowError, OSError) as error:
                tail = "\n".join(server.log_text().splitlines()[-LOG_LINES:])
                raise SystemExit(f"{error!r}\nThe end of ComfyUI's log:\n{tail}") from error
            assert server.client.get("/multigpu/state")["worker_fault"] is None
            log = server.log_text()
            assert "Error handling request" not in log, log[log.index("Error handling request") :][:4000]
            unload_seconds, looks = slow_unload(server)
    yield Record("requests without a 5xx, a folder or a traceback", requests, "requests")
    yield Record("of them answered within a second, on average", requests / seconds, "requests")
    for status, count in sorted(attack.statuses.items()):
        yield Record(f"of them answered with {status}", count, "requests")
    yield Record("of them cut off in the middle", attack.dropped, "requests")
    yield Record("prompts beside them, each with what it sampled before", prompts.finished, "prompts")
    yield Record("of these prompts interrupted", prompts.interrupted, "prompts")
    yield Record("GET /multigpu/state beside all this: median", statistics.median(attack.state_seconds), "s")
    yield Record("GET /multigpu/state beside all this: slowest", max(attack.state_seconds), "s")
    yield Record("an unload that is held up", unload_seconds, "s")
    yield Record("looks at the state during it", len(looks), "looks")
    yield Record("GET /multigpu/state during it: median", statistics.median(looks), "s", STATE_SECONDS)
    yield Record("GET /multigpu/state during it: slowest", max(looks), "s", STATE_SECONDS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a list of records instead of a table")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="write the records, with machine and date, to this file")
    options = parser.parse_args()
    report("Attack", list(measure(options.requests, options.seed)), options.json, options.keep)
