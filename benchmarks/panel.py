"""What the panel costs while ComfyUI samples: the server's part and the page's, of one core.

python benchmarks/panel.py [--json]

A real server with a split model of 65 blocks loaded, and its real page in Chromium: as many looks as the panel takes in
an hour, in fast motion. Processor time over that of one look a second, and what the hour leaves in the page's memory.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
from playwright.sync_api import sync_playwright
from records import Record, main

import multigpu
from multigpu.multigpu_core.cli.demo.models import write_demo_models
from multigpu.multigpu_core.cli.demo.workflow import split_workflow
from multigpu.multigpu_core.provisioning.release import comfyui_folder
from multigpu.multigpu_core.provisioning.server import ComfyUIServer, install_custom_node
from multigpu.multigpu_core.provisioning.tiny_models import FluxShape

LOOKS = 3600
WARM_UP = 60
LOOK = """async looks => {
    const { Panel } = await import('/extensions/ComfyUI-MultiGPU/panel.js');
    const panel = new Panel(document.body.appendChild(document.createElement('div')));
    panel.close();  // its own clock
    for (let i = 0; i < looks; i++) await panel.look();
}"""


def measure() -> Iterator[Record]:
    with tempfile.TemporaryDirectory(prefix="multigpu-benchmark-") as folder:
        base = Path(folder)
        install_custom_node(base, Path(multigpu.__file__).parent, "ComfyUI-MultiGPU")
        models = write_demo_models(base / "models", FluxShape(19, 38))
        with ComfyUIServer(comfyui_folder(), base, environment={"MULTIGPU_SIMULATE": "4gb,2gb"}) as server:
            server.client.run(split_workflow(models, "npu:0", "npu:0,40%;npu:1,40%;cpu,20%", 1))
            (process,) = psutil.Process().children()
            before = sum(process.cpu_times()[:2])
            for _ in range(LOOKS):
                server.client.get("/multigpu/state")
            of_server = (sum(process.cpu_times()[:2]) - before) / LOOKS
            of_page, growth = _page_costs(f"http://127.0.0.1:{server.port}/")
    yield Record("the server's part of a look each second", of_server, "of a core", bound=0.01)
    yield Record("the page's part", of_page, "of a core", bound=0.01)
    yield Record("the page's memory after an hour, over that after a minute", growth, "times", bound=1.1)


def _page_costs(address: str) -> tuple[float, float]:
    """Processor seconds of the page's thread for one look, its answer read and shown; the growth of its memory."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector(".multigpu-tab-button")
        page.wait_for_load_state("networkidle")
        devtools = page.context.new_cdp_session(page)
        devtools.send("Performance.enable", {"timeDomain": "threadTicks"})

        def metric(name: str) -> float:
            metrics = devtools.send("Performance.getMetrics")["metrics"]
            return next(float(each["value"]) for each in metrics if each["name"] == name)

        def memory() -> float:
            devtools.send("HeapProfiler.collectGarbage")
            return metric("JSHeapUsedSize")

        page.evaluate(LOOK, WARM_UP)
        before, busy = memory(), metric("TaskDuration")
        page.evaluate(LOOK, LOOKS)
        busy = metric("TaskDuration") - busy
        return busy / LOOKS, memory() / before


if __name__ == "__main__":
    main("The panel", measure)
