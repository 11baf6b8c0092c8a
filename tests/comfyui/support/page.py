"""ComfyUI's real page in a headless Chromium, with our panel and editor in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Error, Locator, Page, expect, sync_playwright

from multigpu.multigpu_core.provisioning.client import Workflow, WorkflowResult
from multigpu.multigpu_core.provisioning.server import ComfyUIServer

T = TypeVar("T")
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
REQUIRED = "MULTIGPU_BROWSER_REQUIRED"
"""Set where these tests must run: without a browser they then fail instead of being skipped."""
# It asks nobody outside, and needs no sandbox of its own where the tests run as root.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
OURS = "/extensions/ComfyUI-MultiGPU/"
PATIENCE_MILLISECONDS = 120_000
"""For what comes in a moment on a machine that does nothing else."""
expect.set_options(timeout=PATIENCE_MILLISECONDS)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The Chromium that is installed, or Playwright's own; where there is none the test is skipped."""
    with sync_playwright() as playwright:
        found = next((path for name in NAMES if (path := shutil.which(name))), None)
        try:
            browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        except Error as error:
            if os.environ.get(REQUIRED):
                raise
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        try:
            yield browser
        finally:
            browser.close()


def outside_the_browser(work: Callable[[], T]) -> T:
    """Playwright has an event loop in this thread: what starts another runs in a thread of its own."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


class ComfyPage:
    """The page of one server; `complaints` is what its console and its scripts complained of, where that is ours."""

    def __init__(self, browser: Browser, server: ComfyUIServer, size: tuple[int, int] = (1400, 900)) -> None:
        self.server = server
        self.complaints: list[str] = []
        self.page: Page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        self.page.set_default_timeout(PATIENCE_MILLISECONDS)
        self.page.on("console", self._note)
        self.page.on("pageerror", self._note_error)
        self.page.goto(f"http://127.0.0.1:{server.port}/")
        self.page.wait_for_selector(".multigpu-tab-button")
        # All that it fetches at its start is there: from now on nothing but us changes the canvas.
        self.page.wait_for_load_state("networkidle")

    def show(self, workflow: Workflow) -> None:
        """Put a workflow in API format on the canvas, with its nodes' own ids."""
        self.page.evaluate("workflow => window.app.loadApiJson(workflow, 'test')", dict(workflow))
        self.page.wait_for_function(f"() => window.app.graph.nodes.length === {len(workflow)}")

    def run(self, workflow: Workflow) -> WorkflowResult:
        return outside_the_browser(lambda: self.server.client.run(workflow))

    def run_canvas(self) -> WorkflowResult:
        """Run what is on the canvas, as its Run button would send it."""
        prompt: Mapping[str, Any] = self.page.evaluate("async () => (await window.app.graphToPrompt()).output")
        return self.run(prompt)

    def open_panel(self) -> Locator:
        panel = self.page.locator(".multigpu-panel")
        if not panel.is_visible():
            self.page.click("button.multigpu-tab-button")
        return panel

    def open_editor(self, node_type: str) -> Locator:
        """Press a split node's button."""
        self.page.evaluate(
            """type => window.app.graph.nodes.find(node => node.type === type)
                .widgets.find(widget => widget.name === 'edit allocation').callback()""",
            node_type,
        )
        editor = self.page.locator("dialog.multigpu-editor")
        self.page.locator("dialog.multigpu-editor[data-fits]").wait_for()
        return editor

    def widget(self, node_type: str, name: str) -> Any:
        return self.page.evaluate(
            """([type, name]) => window.app.graph.nodes.find(node => node.type === type)
                .widgets.find(widget => widget.name === name).value""",
            [node_type, name],
        )

    def set_palette(self, name: str) -> None:
        """`dark` or `light`."""
        self.page.evaluate("name => window.app.extensionManager.setting.set('Comfy.ColorPalette', name)", name)
        self.page.wait_for_timeout(500)

    def _note_error(self, error: Error) -> None:
        if OURS in (error.stack or ""):
            self.complaints.append(str(error))

    def _note(self, message: ConsoleMessage) -> None:
        place = str(message.location.get("url", ""))
        if message.type in ("error", "warning") and (OURS in place or "multigpu" in message.text.lower()):
            self.complaints.append(f"{message.text} ({place})")


def drag(page: Page, handle: Locator, by_pixels: float) -> None:
    box = handle.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + by_pixels, y, steps=6)
    page.mouse.up()


def screenshot(page: Page, folder: Path, name: str) -> None:
    page.screenshot(path=str(folder / f"{name}.png"))
