"""Our folder, under an odd name, in a real ComfyUI server: what the page is offered, and a workflow from end to end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multigpu.multigpu_core.provisioning.client import WorkflowError
from multigpu.multigpu_core.provisioning.server import ComfyUIServer

from ..support.demo_server import NOTHING, free, loaded_by_another_node, pixels, prepare, split, whole

NODES = Path(__file__).parents[1] / "data" / "nodes.json"
EXPECTED: dict[str, dict[str, Any]] = json.loads(NODES.read_text())["nodes"]
CORE_LOADERS = (
    "CLIPLoader", "CLIPVisionLoader", "CheckpointLoaderAdvanced", "CheckpointLoaderSimple", "ControlNetLoader",
    "DiffControlNetLoader", "DiffusersLoader", "DualCLIPLoader", "QuadrupleCLIPLoader", "TripleCLIPLoader",
    "UNETLoader", "VAELoader",
)  # fmt: skip
NODE_IDS = [f"{loader}{variant}" for loader in CORE_LOADERS for variant in ("MultiGPU", "DisTorch2MultiGPU")]
NODE_IDS += ["DeviceSelectorMultiGPU", "UNetLoaderLP"]
DEVICES = ["cpu", "npu:0", "npu:1"]
FOLDER = "Multi GPU-core.v2 (copy)"
# The old extension ejected by default in some nodes; ours does nothing that was not asked for.
OUR_DEFAULTS = {"eject_models": {"default": False}}
Input = dict[str, Any]


@pytest.fixture(scope="module")
def server(comfyui_path: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUIServer]:
    base = tmp_path_factory.mktemp("base")
    prepare(base, repository, FOLDER)
    settings = base / "plugins.toml"
    settings.write_text('[logging]\nfile = "logs/multigpu.jsonl"\n')
    environment = {"MULTIGPU_SIMULATE": "4gb,2gb", "MULTIGPU_PLUGINS": str(settings)}
    with ComfyUIServer(comfyui_path, base, environment=environment) as running:
        yield running


@pytest.fixture(scope="module")
def object_info(server: ComfyUIServer) -> dict[str, Any]:
    return server.client.object_info()


@pytest.fixture(params=NODE_IDS)
def node_id(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _widgets(info: dict[str, Any]) -> list[Input]:
    """A node's inputs in the order in which the page makes widgets of them, which is the order of saved values."""
    return [
        {"name": name, "section": section, **_kind_and_default(info["input"][section][name])}
        for section in ("required", "optional")
        for name in info["input_order"].get(section, [])
    ]


def _kind_and_default(spec: list[Any]) -> Input:
    """Without the default of a choice, which comes from the machine."""
    kind = "COMBO" if isinstance(spec[0], list) else str(spec[0])
    options = spec[1] if len(spec) > 1 else {}
    return {"kind": kind} | ({"default": options["default"]} if kind != "COMBO" and "default" in options else {})


def _expected_widgets(node_id: str) -> list[Input]:
    expected = [each | OUR_DEFAULTS.get(each["name"], {}) for each in EXPECTED[node_id]["inputs"]]
    return [{k: v for k, v in each.items() if k != "default" or each["kind"] != "COMBO"} for each in expected]


def test_saved_workflows_find_their_inputs_in_the_same_order(node_id: str, object_info: dict[str, Any]) -> None:
    expected = _expected_widgets(node_id)
    assert _widgets(object_info[node_id])[: len(expected)] == expected


def test_what_we_add_comes_last_and_is_off_or_neutral(node_id: str, object_info: dict[str, Any]) -> None:
    added = _widgets(object_info[node_id])[len(EXPECTED[node_id]["inputs"]) :]
    names = [each["name"] for each in added]
    assert all(each["section"] == "optional" for each in added)
    if not node_id.endswith("DisTorch2MultiGPU"):
        assert names == []
        return
    assert names == [name for name in ("keep_loaded", "high_precision_loras", "strategy") if name in names]
    assert {"keep_loaded", "strategy"} <= set(names)
    neutral = {"keep_loaded": False, "high_precision_loras": True}
    assert all(each["default"] == neutral[each["name"]] for each in added if each["kind"] == "BOOLEAN")
    assert object_info[node_id]["input"]["optional"]["strategy"][1]["default"] == "interleave"


def test_outputs_are_those_of_saved_workflows(node_id: str, object_info: dict[str, Any]) -> None:
    assert object_info[node_id]["output"] == EXPECTED[node_id]["outputs"]
    assert object_info[node_id]["output_name"] == EXPECTED[node_id]["output_names"]


def test_device_inputs_list_the_devices_of_this_machine(node_id: str, object_info: dict[str, Any]) -> None:
    sections = object_info[node_id]["input"].values()
    devices = {name: spec for inputs in sections for name, spec in inputs.items() if name.endswith("device")}
    assert all(spec[0] == DEVICES for spec in devices.values())
    assert {name: spec[1]["default"] for name, spec in devices.items()} == {
        name: "cpu" if name.endswith("donor_device") else "npu:0" for name in devices
    }


def test_every_node_of_ours_has_a_title_and_says_where_it_comes_from(node_id: str, object_info: dict[str, Any]) -> None:
    info = object_info[node_id]
    assert info["display_name"] != node_id and info["description"] and info["category"].startswith("multigpu/")
    assert info["python_module"] == f"custom_nodes.{FOLDER}"


def test_a_split_workflow_saves_the_picture_of_the_single_device(server: ComfyUIServer) -> None:
    (expected,) = server.client.run(whole(2024, 2)).image_files()
    (picture,) = server.client.run(split("npu:0,30%;npu:1,40%;cpu,30%", 2024, 2)).image_files()
    assert picture != expected and pixels(picture) == pixels(expected)
    (loaded,) = server.client.get("/multigpu/models")
    assert loaded["bytes_by_device"] == loaded["planned_bytes"]
    assert set(loaded["bytes_by_device"]) == set(DEVICES)
    assert loaded["step_transfer_bytes"] > 0


def test_the_log_file_tells_of_each_prompt_what_was_loaded_where(server: ComfyUIServer) -> None:
    result = server.client.run(split("npu:0,60%;npu:1,40%", 2024, 1))
    (loaded,) = server.client.get("/multigpu/models")
    placed = _events(server, "split_loaded")[-1]
    assert placed["prompt_id"] == result.prompt_id
    assert placed["model"] == "Flux" and placed["milliseconds"] > 0
    assert placed["bytes_by_device"] == loaded["bytes_by_device"]
    assert all("prompt_id" not in event for event in _events(server, "started"))


def _events(server: ComfyUIServer, name: str) -> list[dict[str, Any]]:
    """What the log file has under that name, oldest first."""
    lines = (server.client.base_directory / "user" / "logs" / "multigpu.jsonl").read_text(encoding="utf-8")
    return [event for event in map(json.loads, lines.splitlines()) if event["event"] == name]


def _run_split(server: ComfyUIServer, keep_loaded: bool, seed: int = 0) -> None:
    server.client.run(split("npu:0,20%;npu:1,50%;cpu,30%", seed, 1, keep_loaded=keep_loaded))
    assert server.client.get("/multigpu/models")


def test_unload_models_unloads_a_split_model_and_it_loads_again(server: ComfyUIServer) -> None:
    for seed in (1, 2):
        _run_split(server, keep_loaded=False, seed=seed)
        assert free(server, unload_models=True) == []


def test_unload_models_leaves_a_kept_model_and_free_memory_lets_everything_go(server: ComfyUIServer) -> None:
    _run_split(server, keep_loaded=True)
    server.client.run(loaded_by_another_node(split("npu:0,50%;cpu,50%", 0, 1)))
    assert len(server.client.get("/multigpu/models")) == 2
    (kept,) = free(server, leaves=1, unload_models=True)
    assert kept["bytes_by_device"] == kept["planned_bytes"] and "npu:1" in kept["bytes_by_device"]
    server.client.run(NOTHING)
    assert free(server, unload_models=True, free_memory=True) == []


def test_a_kept_model_outlives_a_prompt_without_its_node_and_is_not_read_again(server: ComfyUIServer) -> None:
    _run_split(server, keep_loaded=True, seed=3)
    plans = _events(server, "split_planned")
    server.client.run(NOTHING)
    assert server.client.get("/multigpu/models")
    _run_split(server, keep_loaded=True, seed=4)
    assert _events(server, "split_planned") == plans, "a model that is read again is planned again"
    assert free(server, unload_models=True, free_memory=True) == []


def test_a_failing_node_shows_the_page_what_is_wrong(server: ComfyUIServer) -> None:
    with pytest.raises(WorkflowError, match=r"(?s)node load .*npu:0,1gb;npu:1,1gx;cpu,\*.*\^"):
        server.client.run(split("npu:0,1gb;npu:1,1gx;cpu,*", 2024, 2))
