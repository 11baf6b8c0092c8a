"""A real ComfyUI server with our folder and the demo's model in it, and what its users ask of it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from multigpu.multigpu_core.cli.demo.models import DemoModels, write_demo_models
from multigpu.multigpu_core.cli.demo.workflow import one_device_workflow, split_workflow
from multigpu.multigpu_core.provisioning.client import Workflow
from multigpu.multigpu_core.provisioning.prompt_pack import PROMPT_PACK
from multigpu.multigpu_core.provisioning.server import ComfyUIServer, install_custom_node
from multigpu.multigpu_core.provisioning.tiny_models import FluxShape

from .packs_at_hand import stand_in

TINY = FluxShape()
SIDE_PIXELS = 64
"""The demo's own model and picture are larger: a test waits for every one of its pictures."""
FREED_WITHIN_SECONDS = 120.0
"""A bound for a server that never does; on a busy machine it may take a while."""

NOTHING: Workflow = {
    "image": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
    "see": {"class_type": "PreviewImage", "inputs": {"images": ["image", 0]}},
}
"""A prompt without a model. Between two requests to free it makes sure of the second: ComfyUI may leave one that comes
while it handles another until its queue moves."""

SELF_LOADING = "self_loading"
NODES_TOML = """
[nodes]
SelfFrames = "npu:1"
SelfSpech = "npu:1"
SelfWorker = "npu:9"

[redirect_first_device]
other-pack = true
"""
"""A variant of a node, two mistakes, and an entry that no other test notices."""

# Nothing that the front end shows to newcomers lies over the page.
PAGE_SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False}


def prepare(base: Path, repository: Path, folder: str = "ComfyUI-MultiGPU", shape: FluxShape = TINY) -> None:
    """Fill a base directory: this repository as the custom node `folder`, the made-up prompt, the models."""
    install_custom_node(base, repository, folder)
    (base / "custom_nodes" / "prompt.py").write_text(PROMPT_PACK)
    install_custom_node(base, stand_in("self_loading"), SELF_LOADING)
    (base / "user" / "multigpu").mkdir(parents=True)
    (base / "user" / "multigpu" / "plugins.toml").write_text(NODES_TOML)
    write_demo_models(base / "models", shape)
    settings = base / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(PAGE_SETTINGS))


def whole(seed: int, steps: int) -> Workflow:
    return _with(one_device_workflow(DemoModels(), steps), seed)


def split(allocation: str, seed: int, steps: int, **loader_inputs: Any) -> Workflow:
    """The model split as the expert string says; `npu:0` computes."""
    return _with(split_workflow(DemoModels(), "npu:0", allocation, steps), seed, **loader_inputs)


def loaded_by_another_node(workflow: Workflow) -> Workflow:
    """The same, so that what the workflow's own loader node keeps is not replaced."""
    lora = _changed(workflow["lora"], {"model": ["another load", 0]})
    others = {name: node for name, node in workflow.items() if name != "load"}
    return {**others, "another load": workflow["load"], "lora": lora}


def beside(first: Workflow, second: Workflow) -> Workflow:
    """Both as one prompt; each node of the second has " again" after its name."""

    def wires(node: Mapping[str, Any]) -> dict[str, Any]:
        return {name: [f"{of[0]} again", of[1]] for name, of in node["inputs"].items() if isinstance(of, list)}

    return {**first, **{f"{name} again": _changed(node, wires(node)) for name, node in second.items()}}


def _with(workflow: Workflow, seed: int, **loader_inputs: Any) -> Workflow:
    return {
        **workflow,
        "load": _changed(workflow["load"], loader_inputs),
        "latent": _changed(workflow["latent"], {"width": SIDE_PIXELS, "height": SIDE_PIXELS}),
        "sample": _changed(workflow["sample"], {"seed": seed}),
        "prompt": {"class_type": "MadeUpPrompt", "inputs": {}},
    }


def _changed(node: Mapping[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    return {**node, "inputs": {**node["inputs"], **inputs}}


def free(server: ComfyUIServer, *, leaves: int = 0, **what: bool) -> list[dict[str, Any]]:
    """Tell ComfyUI to free memory, as its menu does; return what is loaded when `leaves` models are left, or fewer."""
    server.client.post("/free", what)
    end = time.monotonic() + FREED_WITHIN_SECONDS
    while True:
        loaded: list[dict[str, Any]] = server.client.get("/multigpu/models")
        if len(loaded) <= leaves:
            return loaded
        assert time.monotonic() < end, f"still loaded: {loaded}"
        time.sleep(0.05)


def free_everything(server: ComfyUIServer) -> None:
    assert free(server, unload_models=True, free_memory=True) == []


def pixels(file: Path) -> bytes:
    with Image.open(file) as image:
        content: bytes = image.tobytes()
    assert len(set(content)) > 16, "not a picture of nothing"
    return content
