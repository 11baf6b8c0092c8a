"""The server runner, against the real ComfyUI."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from multigpu.multigpu_core.provisioning.client import ComfyUIClient, NodeProgress, WorkflowError
from multigpu.multigpu_core.provisioning.server import ComfyUIServer, ServerError, install_custom_node

TWO_NODES = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 32, "batch_size": 1, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "two nodes"}},
}

BROKEN_PACK = """
raise RuntimeError("this pack is broken")
"""

FAILING_PACK = """
class Fails:
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    def run(self):
        raise ValueError("no such luck")

NODE_CLASS_MAPPINGS = {"Fails": Fails}
"""

# What the runner needs of a ComfyUI, without the ten seconds of its start.
QUICK_SERVER = """
import http.server, sys

class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Answers).serve_forever()
"""

START_AND_WAIT = """
import sys, time
from pathlib import Path
from multigpu.multigpu_core.provisioning.server import ComfyUIServer
with ComfyUIServer(Path(sys.argv[1]), Path(sys.argv[2]), arguments=["--cpu"]) as server:
    print(server.port, flush=True)
    time.sleep(600)
"""


def _pack(folder: Path, code: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(code)
    return folder


@pytest.fixture(scope="module")
def server(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUIServer]:
    """A server with a pack that cannot be imported and one whose node fails."""
    base = tmp_path_factory.mktemp("base")
    packs = tmp_path_factory.mktemp("packs")
    install_custom_node(base, _pack(packs / "broken", BROKEN_PACK), "broken")
    install_custom_node(base, _pack(packs / "failing", FAILING_PACK), "failing")
    with ComfyUIServer(comfyui_path, base, arguments=["--cpu"]) as running:
        yield running


def test_a_workflow_gives_its_images_and_tells_of_each_node(server: ComfyUIServer) -> None:
    steps: list[NodeProgress] = []
    result = server.client.run(TWO_NODES, steps.append)
    (image,) = result.image_files()
    assert image.is_file()
    assert image.is_relative_to(server.base_directory)
    assert [step.class_type for step in steps] == ["EmptyImage", "SaveImage"]


def test_a_refused_workflow_names_the_node_and_its_complaint(server: ComfyUIServer) -> None:
    workflow = {**TWO_NODES, "1": {"class_type": "LoadImage", "inputs": {"image": "absent.png"}}}
    with pytest.raises(WorkflowError, match=r"node 1 \(LoadImage\): .*absent\.png") as caught:
        server.client.run(workflow)
    assert [failure.node_id for failure in caught.value.failures] == ["1"]


def test_a_node_that_fails_is_named_with_its_error(server: ComfyUIServer) -> None:
    workflow = {**TWO_NODES, "1": {"class_type": "Fails", "inputs": {}}}
    with pytest.raises(WorkflowError, match=r"node 1 \(Fails\): ValueError: no such luck"):
        server.client.run(workflow)


def test_nodes_of_the_installed_folders_are_offered_and_a_broken_folder_harms_no_other(server: ComfyUIServer) -> None:
    assert "Fails" in server.client.object_info()
    assert "this pack is broken" in server.log_text()


def test_a_server_that_does_not_start_says_why(comfyui_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="unrecognized arguments: --no-such-flag"):
        ComfyUIServer(comfyui_path, tmp_path, arguments=["--no-such-flag"]).__enter__()


def test_the_server_ends_with_the_block(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(QUICK_SERVER)
    with pytest.raises(KeyboardInterrupt), ComfyUIServer(tmp_path, tmp_path / "base") as server:
        assert server.client.answers()
        raise KeyboardInterrupt
    assert not server.client.answers()


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_the_server_ends_even_when_its_starter_is_killed(comfyui_path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", START_AND_WAIT, str(comfyui_path), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        port = int(starter.stdout.readline())
        os.kill(starter.pid, signal.SIGKILL)
    assert _closes(port)


def _closes(port: int, seconds: float = 120.0) -> bool:
    client = ComfyUIClient(f"127.0.0.1:{port}", Path())
    deadline = time.monotonic() + seconds
    while client.answers():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
