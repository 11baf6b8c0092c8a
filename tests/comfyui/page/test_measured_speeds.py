"""Measuring this machine's speeds from the panel of a ComfyUI without simulated accelerators."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from multigpu.multigpu_core.provisioning.server import ComfyUIServer

from ..support.demo_server import prepare
from ..support.page import ComfyPage, chromium, outside_the_browser

WAITING_PACK = """
import time
from pathlib import Path

class WaitForFile:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"file": ("STRING",)}})
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "wait"
    def wait(self, file):
        while not Path(file).exists():
            time.sleep(0.01)
        return {}

NODE_CLASS_MAPPINGS = {"WaitForFile": WaitForFile}
"""


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("profile") / "profile.json"


@pytest.fixture(scope="module")
def page(
    comfyui_path: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory, profile: Path
) -> Iterator[ComfyPage]:
    base = tmp_path_factory.mktemp("base")
    prepare(base, repository)
    (base / "custom_nodes" / "wait.py").write_text(WAITING_PACK)
    environment = {"MULTIGPU_PROFILE": str(profile), "MULTIGPU_SIMULATE": ""}
    running = ComfyUIServer(comfyui_path, base, arguments=("--cpu",), environment=environment)
    with chromium() as browser, running as server:
        yield ComfyPage(browser, server)


def test_nothing_is_measured_while_a_prompt_runs(page: ComfyPage, profile: Path, tmp_path: Path) -> None:
    speeds = page.open_panel().get_by_role("region", name="Speeds")
    before = profile.read_bytes() if profile.exists() else None
    begun = threading.Event()

    def run() -> None:
        prompt = {"wait": {"class_type": "WaitForFile", "inputs": {"file": str(tmp_path / "over")}}}
        page.server.client.run(prompt, lambda progress: begun.set())

    running = threading.Thread(target=run)
    running.start()
    begun.wait()
    try:
        speeds.get_by_role("button", name="Measure").click()
        expect(speeds).to_contain_text("A prompt is running.")
    finally:
        (tmp_path / "over").touch()
        outside_the_browser(running.join)
    assert (profile.read_bytes() if profile.exists() else None) == before


def test_speeds_are_measured_from_the_panel_with_progress_and_gone_by_at_once(page: ComfyPage, profile: Path) -> None:
    speeds = page.open_panel().get_by_role("region", name="Speeds")
    expect(speeds).to_contain_text("Published speeds")
    page.page.evaluate(
        """async () => {
            const { whenMeasured } = await import('/extensions/ComfyUI-MultiGPU/server.js');
            window.told = [];
            whenMeasured(({ number, total }) => window.told.push([number, total]));
        }"""
    )
    speeds.get_by_role("button", name="Measure").click()
    expect(speeds).to_contain_text("Measured on this machine.")
    assert page.page.evaluate("window.told") == [[1, 3], [2, 3], [3, 3]]
    assert profile.is_file() and page.server.client.get("/multigpu/state")["speeds_measured"]
    expect(speeds.get_by_role("progressbar")).to_have_count(0)
    assert page.complaints == []
