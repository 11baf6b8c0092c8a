"""Runs the demo: a real ComfyUI, tiny models, the ordinary workflow and then the split one."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import multigpu
from multigpu.multigpu_core.devices import default_registry
from multigpu.multigpu_core.provisioning.client import ComfyUIClient, NodeProgress, Workflow, WorkflowError
from multigpu.multigpu_core.provisioning.release import ProvisioningError, comfyui_folder
from multigpu.multigpu_core.provisioning.server import ComfyUIServer, ServerError, install_custom_node

from .machine import DemoMachine, choose_machine
from .models import DemoModels, write_demo_models
from .report import DemoError, DemoResult, compare_images, readable_path
from .workflow import SAMPLER_NODE, one_device_workflow, split_workflow

ARGUMENTS = ("--disable-dynamic-vram",)
"""On NVIDIA cards ComfyUI's DynamicVRAM applies LoRAs while it computes, which rounds otherwise, split or not."""
FOLDER_NAME = "ComfyUI-MultiGPU"
DEMO_ERRORS = (ProvisioningError, ServerError, WorkflowError, DemoError)
"""What keeps the demo from its verdict, with a message for the user."""


def run_demo(directory: Path, steps: int, console: Console) -> DemoResult:
    """Draws the picture twice and compares; everything is kept under `directory`, the server's log included.

    Raises one of `DEMO_ERRORS` where it cannot come to a verdict.
    """
    comfyui = comfyui_folder()
    machine = choose_machine(default_registry())
    kind = "simulated" if machine.simulated else "real"
    console.print(f"Accelerators  {', '.join(machine.accelerators)} ({kind})")
    console.print(f"ComfyUI       {readable_path(comfyui)}")
    models = write_demo_models(directory / "models")
    install_custom_node(directory, Path(multigpu.__file__).parent, FOLDER_NAME)
    server = ComfyUIServer(comfyui, directory, arguments=ARGUMENTS, environment=machine.environment)
    console.print(f"Starting ComfyUI, log in {readable_path(server.log_file)}")
    with server:
        return _draw_twice(server.client, machine, models, steps, console)


def _draw_twice(
    client: ComfyUIClient, machine: DemoMachine, models: DemoModels, steps: int, console: Console
) -> DemoResult:
    device = machine.compute_device
    whole = _draw(client, one_device_workflow(models, steps), f"Whole, on {device}", steps, console)
    workflow = split_workflow(models, device, machine.allocation, steps)
    split = _draw(client, workflow, f"Split, {machine.allocation}", steps, console)
    loaded = client.get("/multigpu/models")
    if len(loaded) != 1:
        raise DemoError(f"One split model should be loaded, and ComfyUI reports {len(loaded)}.")
    return DemoResult(loaded[0], whole, split, compare_images(whole, split))


def _draw(client: ComfyUIClient, workflow: Workflow, title: str, steps: int, console: Console) -> Path:
    """Runs one workflow with a progress bar over its sampling steps; returns its image."""
    columns = (TextColumn("{task.description:<40}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=steps)

        def follow(progress: NodeProgress) -> None:
            if progress.node_id == SAMPLER_NODE:
                bar.update(task, completed=progress.value)

        (image,) = client.run(workflow, follow).image_files()
    return image
