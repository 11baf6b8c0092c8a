"""The panel and the editor in every state, dark and light. MULTIGPU_SCREENSHOTS=FOLDER keeps the pictures.

With it they are of a larger model on larger cards, as docs/images has them, which takes a minute or two.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from multigpu.multigpu_core.provisioning.server import ComfyUIServer
from multigpu.multigpu_core.provisioning.tiny_models import FluxShape

from ..support.demo_server import prepare, split
from ..support.page import ComfyPage, chromium, screenshot

FOLDER = "MULTIGPU_SCREENSHOTS"
LARGE = FluxShape(19, 38, 384)
SPLIT_NODE = "UNETLoaderDisTorch2MultiGPU"
DRAWN_MILLISECONDS = 1500
"""For nicer pictures: what fades or glides is over. Nothing is asserted of them."""
ALLOCATION = "npu:0,35%;npu:1,40%;cpu,25%"


@pytest.fixture(scope="module")
def pictured(
    request: pytest.FixtureRequest, comfyui_path: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyUIServer]:
    if FOLDER not in os.environ:
        yield request.getfixturevalue("server")
        return
    base = tmp_path_factory.mktemp("base")
    prepare(base, repository, shape=LARGE)
    with ComfyUIServer(comfyui_path, base, environment={"MULTIGPU_SIMULATE": "1400mb,300mb"}) as running:
        yield running


def test_the_pictures_of_every_state_can_be_made(pictured: ComfyUIServer, tmp_path: Path) -> None:
    folder = Path(os.environ.get(FOLDER, tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    workflow = split(ALLOCATION, 2024, 3)
    with chromium() as browser:
        comfy = ComfyPage(browser, pictured, size=(1280, 800))
        comfy.show(workflow)
        complaint = comfy.page.get_by_text("is missing")  # what ComfyUI's own first workflow lacks
        if complaint.count():
            complaint.first.locator("xpath=ancestor::*[.//button][1]").get_by_role("button").first.click()
        comfy.open_panel()
        comfy.page.wait_for_timeout(DRAWN_MILLISECONDS)
        screenshot(comfy.page, folder, "panel_empty")
        comfy.run(workflow)
        comfy.open_panel().locator(".multigpu-strip").wait_for()
        comfy.page.mouse.move(700, 700)
        for palette in ("light", "dark"):
            comfy.set_palette(palette)
            comfy.page.wait_for_timeout(DRAWN_MILLISECONDS)
            screenshot(comfy.page, folder, f"panel_{palette}")
            editor = comfy.open_editor(SPLIT_NODE)
            screenshot(comfy.page, folder, f"editor_{palette}")
            editor.locator("#multigpu-expert").fill("npu:0,35%;npu:7,40%;cpu,25%")
            editor.locator(".multigpu-fault mark").wait_for()
            screenshot(comfy.page, folder, f"editor_fault_{palette}")
            comfy.page.keyboard.press("Escape")
        assert comfy.complaints == []
