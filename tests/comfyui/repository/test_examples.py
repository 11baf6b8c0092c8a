"""The example workflows fit the nodes that there are, and those on ComfyUI's own loaders run."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from multigpu.multigpu_core.provisioning import tiny_models

from ..any_node.test_real_self_loading_packs import SELF_LOADING_PACKS
from ..integrations.test_real_packs import PACKS
from ..support.in_process import ComfyUI
from ..support.outputs import picture
from ..support.packs_at_hand import real_pack
from ..support.tiny_families import shrink_families, write_families
from ..support.tiny_files import upscaler_weights

FOLDER = Path(__file__).parents[3] / "examples"
EXAMPLES = {path.stem: path for path in sorted(FOLDER.glob("*.json"))}
BAR = 30  # the height of a node's title, which the front end draws above its position
TINY_FILES = {
    "flux1-dev.safetensors": "flux.safetensors", "flux1-dev-fp8.safetensors": "flux.safetensors",
    "lora.safetensors": "flux.safetensors", "flux-canny.safetensors": "flux.safetensors",
    "ae.safetensors": "image.safetensors",
}  # fmt: skip
"""What stands for a file of the examples, where `tiny_families` writes none of its name."""
TINY_INPUTS = {"width": 32, "height": 32, "length": 5, "steps": 2, "text": "a"}
SAVES = ("Note", "SaveImage", "SaveAnimatedWEBP")
IMAGES = ("VAEDecode", "VAEDecodeTiled", "ImageUpscaleWithModel")


def needs_a_pack(name: str) -> bool:
    nodes = json.loads(EXAMPLES[name].read_text(encoding="utf-8"))["nodes"]
    return any("Needs " in node["widgets_values"][0] for node in nodes if node["type"] == "Note")


class Sources:
    """The modules that make the examples, and the examples as they make them now, by file name."""

    def __init__(self) -> None:
        self.make = importlib.import_module("make")
        classes = self.make.all_classes()
        self.made: dict[str, str] = self.make.written(classes)
        self.subgraphs: dict[str, str] = self.make.written_subgraphs(classes)

    def beside(self, pack: Path) -> dict[str, str]:
        """The examples that need a pack, made from the nodes that a ComfyUI with that folder serves."""
        wanted = [recipe for recipe in self.make.ALL if recipe.pack == pack.name]
        classes = self.make.all_classes([pack])
        ours = {node.type for recipe in wanted for node in recipe.nodes.values() if "MultiGPU" in node.type}
        if not ours <= classes.keys():
            pytest.skip(f"{pack.name} does not import here, or has no {', '.join(sorted(ours - classes.keys()))}")
        written: dict[str, str] = self.make.written(classes, wanted)
        return written


@pytest.fixture(scope="module")
def sources() -> Iterator[Sources]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER / "sources"))
        before = set(sys.modules)
        yield Sources()
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", None)):
            sys.modules.pop(name)


def test_there_are_twenty_and_each_has_a_note_that_says_what_to_change() -> None:
    assert len(EXAMPLES) >= 20
    for path in EXAMPLES.values():
        nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
        assert any(node["type"] == "Note" and "Change" in node["widgets_values"][0] for node in nodes), path.name


def test_ids_links_and_widget_values_are_those_of_the_nodes_that_there_are(sources: Sources) -> None:
    assert {path.name: path.read_text(encoding="utf-8") for path in EXAMPLES.values()} == sources.made, (
        "run python examples/sources/make.py"
    )


def test_subgraphs_are_those_that_the_nodes_make(sources: Sources) -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in (FOLDER.parent / "subgraphs").glob("*.json")}
    assert written == sources.subgraphs, "run python examples/sources/make.py"


@pytest.mark.parametrize("pack", ["ComfyUI-GGUF", *PACKS.values(), *SELF_LOADING_PACKS])
def test_the_example_of_an_integration_is_the_same_beside_the_real_pack(sources: Sources, pack: str) -> None:
    folder = real_pack(pack)
    beside = sources.beside(folder)
    if pack == "ComfyUI-WanVideoWrapper" and not (folder / "nodes_model_loading.py").exists():
        return  # of 2025: it takes every node, link and value of the example, and has fewer inputs
    assert beside == {name: sources.made[name] for name in beside}


@pytest.mark.parametrize("integration", ["gguf", *PACKS])
def test_every_integration_has_an_example(sources: Sources, integration: str) -> None:
    plugin = importlib.import_module(f"multigpu.integrations.{integration}")
    loaders = list(plugin.multigpu_wrap_loader())
    ours = {variant.node_id for loader in loaders for variant in loader.variants}
    ours = ours or {loader.target for loader in loaders}  # one whose pack's own nodes need no variants
    recipes = [recipe for recipe in sources.make.ALL if recipe.pack == plugin.multigpu_pack]
    assert recipes, f"no example needs {plugin.multigpu_pack}"
    assert all(ours & {node.type for node in recipe.nodes.values()} for recipe in recipes)


def test_no_node_of_an_example_lies_over_another() -> None:
    for path in EXAMPLES.values():
        nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
        boxes = [(*node["pos"], *node["size"]) for node in nodes]
        for (x, y, width, height), (left, top, wide, high) in combinations(boxes, 2):
            apart = x + width <= left or left + wide <= x or y + height + BAR <= top or top + high + BAR <= y
            assert apart, f"{path.name}: nodes at {x, y} and {left, top}"


def test_every_kind_of_split_has_an_example() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in EXAMPLES.values())
    for what in ("cuda:0,50%;cuda:1,50%", "6gb", "cuda:0,0.4", '"auto"', '"relay"', "16.0", '"cpu"'):
        assert what in text


@pytest.fixture(scope="module")
def families(started_comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A ComfyUI that knows the tiny files of every family as it knows the published ones."""
    models = started_comfyui.models
    with pytest.MonkeyPatch.context() as patch:
        shrink_families(patch, tmp_path_factory.mktemp("families"))
        write_families(models)
        tiny_models.write(models / "vae" / "image.safetensors", tiny_models.vae_weights())
        tiny_models.write(models / "upscale_models" / "4x_upscaler.safetensors", upscaler_weights())
        yield


@pytest.mark.usefixtures("families")
@pytest.mark.parametrize("name", [name for name in EXAMPLES if not needs_a_pack(name)])
def test_those_on_core_loaders_run(comfyui: ComfyUI, name: str) -> None:
    """Every node runs, text encoders and VAE included, but those that save the result."""
    workflow = json.loads(EXAMPLES[name].read_text(encoding="utf-8"))
    outputs: dict[int, tuple[Any, ...]] = {}
    links = {link: (source, output) for link, source, output, *_ in workflow["links"]}
    waiting = [node for node in workflow["nodes"] if node["type"] not in SAVES]
    while waiting:
        node = next(each for each in waiting if all(links[i["link"]][0] in outputs for i in each["inputs"]))
        waiting.remove(node)
        wires = {each["name"]: outputs[links[each["link"]][0]][links[each["link"]][1]] for each in node["inputs"]}
        if node["type"] == "LoadImage":
            outputs[node["id"]] = (picture(),)
        else:
            outputs[node["id"]] = comfyui.run(node["type"], **_widgets(comfyui, node), **wires)
    (image,) = (outputs[node["id"]][0] for node in workflow["nodes"] if node["type"] in IMAGES)
    assert image.shape[-1] == 3 and image.isfinite().all() and image.std() > 0


def _widgets(comfyui: ComfyUI, node: dict[str, Any]) -> dict[str, Any]:
    """A node's widget values by name, with tiny files and pictures and the devices of this machine."""
    types = comfyui.nodes.NODE_CLASS_MAPPINGS[node["type"]].INPUT_TYPES()
    linked = {each["name"] for each in node["inputs"]}
    values = iter(node["widgets_values"])
    found: dict[str, Any] = {}
    for name, spec in {**types.get("required", {}), **types.get("optional", {})}.items():
        options = spec[1] if len(spec) > 1 else {}
        if name in linked or not (
            isinstance(spec[0], list) or spec[0] in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
        ):
            continue
        value = next(values)
        if options.get("control_after_generate"):
            next(values)
        found[name] = _tiny(name, value)
    return found


def _tiny(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return TINY_INPUTS.get(name, TINY_FILES.get(value, value.replace("cuda", "npu")))
    if name in ("end_at_step", "start_at_step") and 0 < value < 1000:
        return 1
    return TINY_INPUTS.get(name, value)
