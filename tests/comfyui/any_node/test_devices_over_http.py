"""A device for any node in a real server: from plugins.toml, from the route, and from a prompt that names a variant."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import pytest

from multigpu.multigpu_core.provisioning.client import Workflow, WorkflowError
from multigpu.multigpu_core.provisioning.server import ComfyUIServer

IMAGE = {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}


def _workflow(class_type: str, output: int, **inputs: Any) -> Workflow:
    return {
        "image": IMAGE,
        "node": {"class_type": class_type, "inputs": inputs},
        "show": {"class_type": "SelfShow", "inputs": {"text": ["node", output]}},
    }


def _said(server: ComfyUIServer, workflow: Workflow) -> str:
    (text,) = server.client.run(workflow).outputs["show"]["text"]
    return str(text)


def _refused(server: ComfyUIServer, body: object, **headers: str) -> tuple[int, str]:
    headers = {"Content-Type": "application/json", **headers}
    address = f"http://{server.client.address}/multigpu/device-choice"
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=60)
    return caught.value.code, caught.value.read().decode()


def test_plugins_toml_makes_a_variant_that_offers_its_device_first(server: ComfyUIServer) -> None:
    info = server.client.object_info()["SelfFramesMultiGPU"]
    (devices, options), *_ = [info["input"]["optional"]["device"]]
    assert devices == ["cpu", "npu:0", "npu:1"] and options["default"] == "npu:1"
    assert info["output"] == ["IMAGE", "STRING"] and info["python_module"] == "custom_nodes.ComfyUI-MultiGPU"
    frames = {"frames": ["image", 0], "model": "small"}
    assert _said(server, _workflow("SelfFramesMultiGPU", 1, **frames, device="npu:1")) == "npu:1 npu:1"
    assert _said(server, _workflow("SelfFrames", 1, **frames)) == "npu:0 npu:0"


def test_what_is_wrong_in_plugins_toml_is_reported_with_its_line(server: ComfyUIServer) -> None:
    log = server.log_text()
    assert "line 4: nodes.SelfSpech: There is no node 'SelfSpech'. Did you mean SelfSpeech?" in log
    assert "line 5: nodes.SelfWorker: There is no device 'npu:9'" in log
    assert "SelfWorkerMultiGPU" not in server.client.object_info()


def test_the_route_makes_a_variant_that_runs_at_once(server: ComfyUIServer) -> None:
    choice = server.client.post("/multigpu/device-choice", {"node_id": "SelfCaption"})
    assert choice == {"node_id": "SelfCaptionMultiGPU", "device_input": "device", "devices": ["cpu", "npu:0", "npu:1"]}
    inputs = server.client.get("/object_info/SelfCaptionMultiGPU")["SelfCaptionMultiGPU"]["input"]
    assert list(inputs["optional"]) == ["keep", "device"], "saved values keep their places"
    workflow = _workflow("SelfCaptionMultiGPU", 0, image=["image", 0], words="x", device="npu:1")
    assert _said(server, workflow) == "x on npu:1, npu:1"


def test_a_prompt_may_name_a_variant_that_nobody_has_made_yet(server: ComfyUIServer) -> None:
    assert "SelfSpeechMultiGPU" not in server.client.object_info()
    assert _said(server, _workflow("SelfSpeechMultiGPU", 1, image=["image", 0], device="npu:1")) == "npu:1"


def test_a_prompt_with_a_variant_of_no_node_is_refused_by_comfyui(server: ComfyUIServer) -> None:
    with pytest.raises(WorkflowError, match="NobodysMultiGPU"):
        server.client.run(_workflow("NobodysMultiGPU", 0))


def test_a_node_that_has_a_choice_of_its_own_or_a_variant_is_not_given_another(server: ComfyUIServer) -> None:
    def chosen(node_id: str) -> tuple[str, str]:
        choice = server.client.post("/multigpu/device-choice", {"node_id": node_id})
        return choice["node_id"], choice["device_input"]

    assert chosen("UNETLoader") == ("UNETLoaderMultiGPU", "device")
    assert chosen("UNETLoaderDisTorch2MultiGPU") == ("UNETLoaderDisTorch2MultiGPU", "compute_device")
    assert chosen("DeviceSelectorMultiGPU") == ("DeviceSelectorMultiGPU", "device")


def test_the_route_refuses_what_it_cannot_do(server: ComfyUIServer) -> None:
    assert _refused(server, {"node_id": "Nobodys"})[0] == 404
    assert _refused(server, {"node_id": "x", "more": 1})[0] == 400
    assert _refused(server, {"node_id": ""})[0] == 400
    assert _refused(server, {"node_id": "SelfCaption"}, **{"Content-Type": "text/plain"})[0] == 415
    assert _refused(server, {"node_id": "SelfCaption"}, Origin="http://elsewhere.example")[0] == 403


def test_an_error_of_the_node_reaches_the_user_unchanged(server: ComfyUIServer) -> None:
    with pytest.raises(WorkflowError, match="ValueError: the pack's own error"):
        _said(server, _workflow("SelfCaptionMultiGPU", 0, image=["image", 0], words="fail", device="npu:1"))
