"""Models are unloaded by ComfyUI's prompt worker alone, in whatever order its users want things."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from multigpu.multigpu_core.cli.doctor.running_server import running_server
from multigpu.multigpu_core.provisioning.server import ComfyUIServer
from multigpu.multigpu_core.provisioning.tiny_models import FluxShape

from ..support.demo_server import prepare
from ..support.gates import GATES, GATES_PACK, Answer, GatedServer, two_models

EVERYTHING = {"unload_models": True, "free_memory": True}
DEEDS = ("unload", "unload the other", "free", "queue", "interrupt")
SEEDS = itertools.count(1)
ORDERS = [DEEDS[turn:] + DEEDS[:turn] for turn in range(5)]
FEW = [(order[::sign], GATES[number % 4]) for sign in (1, -1) for number, order in enumerate(ORDERS)]
ALL = list(itertools.product(itertools.permutations(DEEDS), GATES))


@pytest.fixture(scope="module")
def server(comfyui_path: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUIServer]:
    base = tmp_path_factory.mktemp("base")
    prepare(base, repository, shape=FluxShape(1, 2))
    (base / "custom_nodes" / "gates.py").write_text(GATES_PACK)
    environment = {"MULTIGPU_SIMULATE": "4gb,2gb", "OMP_NUM_THREADS": "1"}
    # Only what the last prompt made is cached: with another seed everything but the loaders runs.
    with ComfyUIServer(comfyui_path, base, arguments=("--cache-classic",), environment=environment) as running:
        yield running


@pytest.fixture
def gated(server: ComfyUIServer) -> Iterator[GatedServer]:
    """Two split models are loaded; afterwards nothing was done by another thread than the prompt worker."""
    with ThreadPoolExecutor(8) as hands:
        gated = GatedServer(server, hands)
        run(gated)
        yield gated
        gated.arm()
    threads = {thread for those in gated.seen()["threads"].values() for thread in those}
    assert all("prompt_worker" in thread for thread in threads), threads
    assert gated.state()["worker_fault"] is None


SAMPLED: dict[int, list[str]] = {}


def run(gated: GatedServer) -> None:
    """Run a prompt with another seed than the last one; what it samples is what that seed gave the first time."""
    seed = next(SEEDS) % 2
    outputs = gated.server.client.run(two_models(seed)).outputs
    found = [outputs[node]["digest"][0] for node in ("digest", "digest again")]
    assert found == SAMPLED.setdefault(seed, found)


def test_a_model_is_unloaded_and_the_answer_comes_when_it_is(gated: GatedServer) -> None:
    first, second = gated.keys()
    assert gated.unload(first).result() == Answer(200, {})
    assert gated.keys() == [second], "and no other"
    run(gated)


def test_the_state_answers_and_prompts_are_taken_while_an_unload_takes_long(gated: GatedServer) -> None:
    first, second = gated.keys()
    with gated.gates_closed("detach"):
        unloading = gated.unload(first)
        assert gated.held_at("detach")
        assert gated.state()["worker_fault"] is None
        assert gated.server.client.get("/multigpu/models") is not None
        queued = gated.post("/prompt", {"prompt": two_models(next(SEEDS) % 2)})
        assert queued.status == 200
        assert gated.post("/multigpu/keep", {"key": second, "keep_loaded": False}).status == 200
        assert not unloading.done()
    assert unloading.result().status == 200
    run(gated)


def test_a_model_is_not_unloaded_while_outputs_are_dropped(gated: GatedServer) -> None:
    first, _ = gated.keys()
    with gated.gates_closed("reset"):
        assert gated.post("/free", EVERYTHING).status == 200
        assert gated.held_at("reset")
        unloading = gated.unload(first)
        assert gated.state()["models"] == [] and not unloading.done()
    assert unloading.result().status in (200, 404)
    run(gated)


def test_a_request_whose_prompt_worker_is_busy_is_refused_once_a_prompt_runs(gated: GatedServer) -> None:
    first, second = gated.keys()
    with gated.gates_closed("unload"):
        unloading = gated.unload(first)
        assert gated.held_at("unload")
        other = gated.unload(second)
        assert gated.post("/prompt", {"prompt": two_models(next(SEEDS) % 2)}).status == 200
    assert unloading.result().status == 200
    assert other.result().status == 200, "what was asked for before a prompt is done before it"
    run(gated)


def _do(gated: GatedServer, deed: str, keys: list[int]) -> Future[Answer]:
    if deed.startswith("unload"):
        return gated.unload(keys[deed != "unload"])
    route, body = {
        "free": ("/free", EVERYTHING),
        "queue": ("/prompt", {"prompt": two_models(next(SEEDS) % 2)}),
        "interrupt": ("/interrupt", {}),
    }[deed]
    answer: Future[Answer] = Future()
    answer.set_result(gated.post(route, body))
    return answer


def _in_this_order(gated: GatedServer, order: tuple[str, ...], gate: str) -> None:
    """All is asked for while the worker stands at a gate, where it comes to one; then it goes on."""
    keys = gated.keys()
    with gated.gates_closed(gate):
        answers = [_do(gated, deed, keys) for deed in order]
        gated.state()
    statuses = [answer.result().status for answer in answers]
    assert set(statuses) <= {200, 404, 409}, dict(zip(order, statuses, strict=True))
    run(gated)


@pytest.mark.parametrize(
    ("order", "gate"), FEW, ids=lambda value: value if isinstance(value, str) else ", ".join(value)
)
def test_in_any_order_nothing_fails_and_every_picture_is_right(
    gated: GatedServer, order: tuple[str, ...], gate: str
) -> None:
    _in_this_order(gated, order, gate)


@pytest.mark.long
def test_in_every_order_nothing_fails_and_every_picture_is_right(gated: GatedServer) -> None:
    for order, gate in ALL:
        _in_this_order(gated, order, gate)
        run(gated)


@pytest.fixture
def dead(gated: GatedServer) -> Iterator[GatedServer]:
    """The prompt worker has died; afterwards another one works."""
    words = f"no more, see {gated.server.base_directory}/secret.txt"
    gated.post("/prompt", {"prompt": {"die": {"class_type": "Die", "inputs": {"words": words}}}})
    yield gated
    gated.post("/gates/revive", {})
    run(gated)


def _fault(gated: GatedServer) -> Any:
    """The state's, once it has one: the thread ends after its prompt has begun."""
    return next(fault for _ in range(10_000) if (fault := gated.state()["worker_fault"]) is not None)


def test_a_dead_prompt_worker_is_reported_by_the_panel_s_state_the_doctor_and_unload(dead: GatedServer) -> None:
    assert _fault(dead) == "SystemExit: no more, see secret.txt"
    refused = dead.post("/multigpu/unload", {"key": 1})
    assert refused.status == 503 and "SystemExit: no more" in refused.body["message"]
    assert str(dead.server.base_directory) not in str(refused.body)
    found = running_server(dead.server.client.address)
    assert found is not None and found.worker_fault == "SystemExit: no more, see secret.txt"
