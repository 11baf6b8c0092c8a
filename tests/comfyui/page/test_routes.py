"""Our HTTP routes in a real server: what they answer, and what they refuse."""

from __future__ import annotations

import json
import socket
import struct
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from multigpu.multigpu_core.provisioning.server import ComfyUIServer

from ..support.demo_server import free, pixels, split

FILE = {"input": "unet_name", "name": "tiny-flux.safetensors"}
WISH = {"files": [FILE], "compute_device": "npu:0"}
HALVES = "npu:0,50%;npu:1,50%"


@pytest.fixture(scope="module", autouse=True)
def files(server: ComfyUIServer) -> None:
    """Beside the demo's models: one that is huge, and one that ComfyUI does not list."""
    (server.base_directory / "secret.safetensors").write_bytes(b"{}")
    _write_huge(server.base_directory / "models" / "diffusion_models" / "huge.safetensors")


def _write_huge(file: Path) -> None:
    """8 GB of a file that takes no room on the disk: its header is real."""
    size, header = 1 << 30, {}
    for index in range(8):
        offsets = [index * size, (index + 1) * size]
        header[f"double_blocks.{index}.img_attn.qkv.weight"] = {
            "dtype": "BF16",
            "shape": [size // 2],
            "data_offsets": offsets,
        }
    text = json.dumps(header).encode()
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", len(text)) + text)
        opened.truncate(8 + len(text) + 8 * size)


def _post(server: ComfyUIServer, route: str, body: bytes, **headers: str) -> tuple[int, str]:
    headers = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
    request = urllib.request.Request(f"http://{server.client.address}{route}", data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()


def _plan(server: ComfyUIServer, **widgets: Any) -> dict[str, Any]:
    status, text = _post(server, "/multigpu/plan", json.dumps({**WISH, **widgets}).encode())
    assert status == 200, text
    answer: dict[str, Any] = json.loads(text)
    return answer


def test_a_plan_is_made_of_a_file_that_has_never_been_loaded(server: ComfyUIServer) -> None:
    answer = _plan(server, expert=HALVES)
    assert answer["fits"] and answer["predicted_seconds"] is None
    assert sum(answer["bytes_by_device"].values()) == answer["total_bytes"]
    assert {block["device"] for block in answer["blocks"]} == {"npu:0", "npu:1"}


def test_the_strategy_of_a_plugin_is_in_the_node_s_list_and_makes_the_plan(server: ComfyUIServer) -> None:
    names, settings = server.client.object_info()["UNETLoaderDisTorch2MultiGPU"]["input"]["optional"]["strategy"]
    assert names[-1] == "ending" and "ending offloads the end of the model" in settings["tooltip"]
    answer = _plan(server, expert=HALVES, strategy="ending")
    assert answer["strategy"] == "ending"
    assert answer["fits"] and answer["blocks"] != _plan(server, expert=HALVES)["blocks"]


def test_fp8_halves_what_a_plan_places(server: ComfyUIServer) -> None:
    assert _plan(server, weight_dtype="fp8_e4m3fn")["total_bytes"] * 2 == _plan(server)["total_bytes"]


def test_a_wrong_string_is_answered_with_the_place_of_its_fault(server: ComfyUIServer) -> None:
    answer = _plan(server, expert="npu:0,50%;npu:9,50%")
    fault = answer["error"]
    assert not answer["fits"]
    assert "npu:0,50%;npu:9,50%"[fault["start"] : fault["end"]] == "npu:9"
    assert "There is no device" in fault["message"]


def test_a_device_that_is_missing_is_not_marked_in_the_string(server: ComfyUIServer) -> None:
    answer = _plan(server, compute_device="npu:9", expert="npu:0,50%;cpu,*")
    assert "There is no device 'npu:9'" in answer["error"]["message"]
    assert "start" not in answer["error"]


def test_a_split_that_cannot_fit_says_so(server: ComfyUIServer) -> None:
    huge = [{"input": "unet_name", "name": "huge.safetensors"}]
    assert "npu:1 would have to store 4.00 GB" in _plan(server, files=huge, expert=HALVES)["error"]["message"]
    assert _plan(server, files=huge, expert="npu:0,1gb;cpu,*")["total_bytes"] == 8 << 30


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "../../secret.safetensors", "no.safetensors"])
def test_only_files_that_comfyui_lists_are_read(server: ComfyUIServer, name: str) -> None:
    answer = _plan(server, files=[{"input": "unet_name", "name": name}])
    assert "not in any of ComfyUI's model folders" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "Invalid JSON"),
        (b"[]", "object"),
        (json.dumps({**WISH, "path": "/etc/passwd"}).encode(), "path: Extra inputs are not permitted"),
        (json.dumps({**WISH, "virtual_vram_gb": -1}).encode(), "virtual_vram_gb"),
        (json.dumps({**WISH, "files": []}).encode(), "files"),
        (json.dumps({**WISH, "expert": "x" * 5000}).encode(), "expert"),
    ],
)
def test_a_body_that_is_none_is_refused_with_what_is_wrong(server: ComfyUIServer, body: bytes, complaint: str) -> None:
    status, text = _post(server, "/multigpu/plan", body)
    assert status == 400 and complaint in text


@pytest.mark.parametrize("route", ["plan", "keep", "unload", "profile"])
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "text/json"])
def test_a_body_that_a_foreign_page_could_send_unasked_is_refused(server: ComfyUIServer, route: str, kind: str) -> None:
    status, text = _post(server, f"/multigpu/{route}", b'{"key": 1, "keep_loaded": true}', Content_Type=kind)
    assert status == 415 and "application/json" in text


@pytest.mark.parametrize("route", ["plan", "keep", "unload", "profile"])
def test_another_site_s_page_is_refused_by_comfyui(server: ComfyUIServer, route: str) -> None:
    status, _ = _post(server, f"/multigpu/{route}", b"{}", Origin="https://elsewhere.example")
    assert status == 403


def test_a_charset_beside_the_content_type_is_taken(server: ComfyUIServer) -> None:
    body = json.dumps(WISH).encode()
    assert _post(server, "/multigpu/plan", body, Content_Type="application/json; charset=utf-8")[0] == 200


def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_no_traceback(server: ComfyUIServer) -> None:
    before = server.log_text().count("Traceback")
    head = b"POST /multigpu/plan HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(head)
        server.client.get("/multigpu/state")  # the head has been read
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(head)
        server.client.get("/multigpu/state")
        client.shutdown(socket.SHUT_WR)
        client.recv(1000)
    server.client.get("/multigpu/state")
    log = server.log_text()
    assert log.count("Traceback") == before and "Error handling request" not in log


def test_a_damaged_file_is_named_without_its_folder(server: ComfyUIServer) -> None:
    damaged = server.base_directory / "models" / "diffusion_models" / "damaged.safetensors"
    damaged.write_bytes(b"x" * 20)
    try:
        answer = _plan(server, files=[{"input": "unet_name", "name": damaged.name}])
    finally:
        damaged.unlink()
    message = answer["error"]["message"]
    assert message.startswith("damaged.safetensors: ") and str(server.base_directory) not in message


def test_a_body_without_end_is_not_read_to_its_end(server: ComfyUIServer) -> None:
    status, _ = _post(server, "/multigpu/plan", b" " * 100_000)
    assert status == 413


@pytest.mark.parametrize(("route", "more"), [("keep", {"keep_loaded": True}), ("unload", {})])
def test_a_model_that_is_gone_is_not_found(server: ComfyUIServer, route: str, more: dict[str, Any]) -> None:
    status, text = _post(server, f"/multigpu/{route}", json.dumps({"key": 12345, **more}).encode())
    assert status == 404 and "no longer loaded" in text


def test_while_a_prompt_runs_nothing_is_unloaded_under_it(server: ComfyUIServer) -> None:
    server.client.run(split(HALVES, 1, 1))
    (model,) = [each for each in server.client.get("/multigpu/state")["models"] if each["split"]]
    key = json.dumps({"key": model["ours"]["key"]}).encode()
    answers = []

    def ask(progress: Any) -> None:
        if progress.class_type == "KSampler" and progress.value == 1 and not answers:
            answers.append(_post(server, "/multigpu/unload", key))

    server.client.run(split(HALVES, 2, 4), ask)
    assert answers[0][0] == 409 and "A prompt is running" in answers[0][1]
    assert _post(server, "/multigpu/unload", key)[0] == 200
    assert server.client.get("/multigpu/models") == []


def test_the_state_may_be_asked_for_all_the_time_while_one_samples(server: ComfyUIServer) -> None:
    expected = server.client.run(split(HALVES, 3, 3)).image_files()[0]
    over, answers = threading.Event(), []

    def ask() -> None:
        while not over.is_set():
            answers.append(server.client.get("/multigpu/state"))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        assert free(server, unload_models=True, free_memory=True) == []
        picture = server.client.run(split(HALVES, 3, 3)).image_files()[0]
    finally:
        over.set()
        asking.join()
    assert pixels(picture) == pixels(expected)
    assert any(answer["busy"] for answer in answers)


def test_simulated_accelerators_have_no_speed_to_measure(server: ComfyUIServer) -> None:
    status, text = _post(server, "/multigpu/profile", b"{}")
    assert status == 409 and "unset MULTIGPU_SIMULATE" in text


def test_a_load_shows_its_progress_at_the_node_that_causes_it(server: ComfyUIServer) -> None:
    assert free(server, unload_models=True, free_memory=True) == []
    seen: list[tuple[str, int, int]] = []
    server.client.run(split(HALVES, 9, 2), lambda p: seen.append((p.class_type, p.value, p.maximum)))
    loaded = [value for node, value, maximum in seen if node == "KSampler" and maximum > 10]
    assert loaded and loaded == sorted(loaded)
    assert ("KSampler", 2, 2) in seen, "and then the sampling's own"
