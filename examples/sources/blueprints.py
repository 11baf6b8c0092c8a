"""The subgraphs that ComfyUI's page offers as nodes of their own: loaders that are placed already.

Each is a recipe whose nodes become a subgraph. A node that stands for what is linked from outside becomes an input.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ui_format import Node, Recipe, Wire, ui_workflow

INPUT, OUTPUT = -10, -20
"""The ids that ComfyUI's page gives the two ends of a subgraph."""
NAMESPACE = uuid.UUID("5b1d0c36-2f6e-4a57-9a54-6a0b6ad2c1f1")


@dataclass(frozen=True)
class Blueprint:
    """A recipe, its nodes that stand for inputs, and its outputs by the name that they get."""

    recipe: Recipe
    outputs: Mapping[str, Wire]
    inputs: Sequence[str] = ()


_FLUX_CLIP = {"clip_name1": "clip_l.safetensors", "clip_name2": "t5xxl_fp16.safetensors", "type": "flux"}
_WAN_CLIP = {"clip_name": "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "type": "wan"}
_WAN = "wan2.2_t2v_{noise}_noise_14B_fp8_scaled.safetensors"
BLUEPRINTS = (
    Blueprint(
        Recipe(
            "Split image model, encoders on the second GPU",
            "",
            {
                "model": Node(
                    "UNETLoaderDisTorch2MultiGPU",
                    {
                        "unet_name": "flux1-dev.safetensors", "compute_device": "cuda:0",
                        "expert_mode_allocations": "auto",
                    },
                ),
                "clip": Node("DualCLIPLoaderMultiGPU", {**_FLUX_CLIP, "device": "cuda:1"}),
                "vae": Node("VAELoaderMultiGPU", {"vae_name": "ae.safetensors", "device": "cuda:1"}),
            },
        ),
        {"MODEL": Wire("model"), "CLIP": Wire("clip"), "VAE": Wire("vae")},
    ),
    Blueprint(
        Recipe(
            "Two-expert video, one expert on each GPU",
            "",
            {
                "high": Node("UNETLoaderMultiGPU", {"unet_name": _WAN.format(noise="high"), "device": "cuda:0"}),
                "low": Node("UNETLoaderMultiGPU", {"unet_name": _WAN.format(noise="low"), "device": "cuda:1"}),
                "clip": Node("CLIPLoaderMultiGPU", {**_WAN_CLIP, "device": "cpu"}),
                "vae": Node("VAELoaderMultiGPU", {"vae_name": "wan_2.1_vae.safetensors", "device": "cuda:1"}),
            },
        ),
        {"high noise": Wire("high"), "low noise": Wire("low"), "CLIP": Wire("clip"), "VAE": Wire("vae")},
    ),
    Blueprint(
        Recipe(
            "VAE and upscaler on the second GPU",
            "",
            {
                "latent": Node("EmptyLatentImage"),
                "vae": Node("VAELoaderMultiGPU", {"vae_name": "ae.safetensors", "device": "cuda:1"}),
                "decode": Node("VAEDecode", {"samples": Wire("latent"), "vae": Wire("vae")}),
                "upscaler": Node(
                    "UpscaleModelLoaderMultiGPU", {"model_name": "4x_upscaler.safetensors", "device": "cuda:1"}
                ),
                "upscale": Node(
                    "ImageUpscaleWithModel", {"upscale_model": Wire("upscaler"), "image": Wire("decode")}
                ),
            },
        ),
        {"IMAGE": Wire("upscale")},
        inputs=("latent",),
    ),
)  # fmt: skip


def written_blueprint(blueprint: Blueprint, classes: Mapping[str, Any]) -> dict[str, Any]:
    """A workflow with one node, the subgraph, as ComfyUI's page saves blueprints.

    Raises:
        RecipeError: a node, an input or a link is not as the recipe has it.
    """
    recipe = blueprint.recipe
    made = ui_workflow(recipe, classes)
    ids = {name: number for number, name in enumerate(recipe.nodes, 1)}
    outside = {ids[name]: slot for slot, name in enumerate(blueprint.inputs)}
    nodes = [node for node in made["nodes"] if node["type"] != "Note" and node["id"] not in outside]
    links = [
        _link(number, INPUT if source in outside else source, outside.get(source, output), target, slot, kind)
        for number, source, output, target, slot, kind in made["links"]
    ]
    by_id = {node["id"]: node for node in nodes}
    outputs = []
    for slot, (name, wire) in enumerate(blueprint.outputs.items()):
        source = by_id[ids[wire.node]]["outputs"][wire.output]
        links.append(_link(len(links) + 1, ids[wire.node], wire.output, OUTPUT, slot, source["type"]))
        source["links"].append(len(links))
        outputs.append(_end(recipe.name, name, source["type"], [len(links)]))
    inputs = [
        _end(recipe.name, name, classes[recipe.nodes[name].type]["output"][0],
             [link["id"] for link in links if link["origin_id"] == INPUT and link["origin_slot"] == slot])
        for slot, name in enumerate(blueprint.inputs)
    ]  # fmt: skip
    return _workflow(recipe.name, nodes, links, inputs, outputs)


def _link(number: int, origin: int, slot: int, target: int, target_slot: int, kind: str) -> dict[str, Any]:
    return {
        "id": number, "origin_id": origin, "origin_slot": slot, "target_id": target, "target_slot": target_slot,
        "type": kind,
    }  # fmt: skip


def _end(recipe: str, name: str, kind: str, links: Sequence[int]) -> dict[str, Any]:
    return {"id": _id(recipe, name), "name": name, "type": kind, "linkIds": list(links)}


def _id(*names: str) -> str:
    return str(uuid.uuid5(NAMESPACE, "/".join(names)))


def _workflow(
    name: str,
    nodes: list[dict[str, Any]],
    links: list[dict[str, Any]],
    inputs: list[dict[str, Any]],
    outputs: list[dict[str, Any]],
) -> dict[str, Any]:
    last = max(node["id"] for node in nodes)
    right = max(node["pos"][0] + node["size"][0] for node in nodes) + 80
    subgraph = {
        "id": _id(name), "version": 1, "revision": 0, "config": {}, "name": name,
        "state": {"lastGroupId": 0, "lastNodeId": last, "lastLinkId": len(links), "lastRerouteId": 0},
        "inputNode": {"id": INPUT, "bounding": [-160, 0, 120, 40 + 20 * len(inputs)]},
        "outputNode": {"id": OUTPUT, "bounding": [right, 0, 120, 40 + 20 * len(outputs)]},
        "inputs": inputs, "outputs": outputs, "widgets": [], "nodes": nodes, "groups": [], "links": links, "extra": {},
    }  # fmt: skip
    node = {
        "id": last + 1, "type": subgraph["id"], "pos": [0, 0], "size": [320, 80 + 20 * len(outputs)], "flags": {},
        "order": 0, "mode": 0, "title": name, "properties": {}, "widgets_values": [],
        "inputs": [{"name": each["name"], "type": each["type"], "link": None} for each in inputs],
        "outputs": [{"name": each["name"], "type": each["type"], "links": None} for each in outputs],
    }  # fmt: skip
    return {
        "id": _id(name, "workflow"), "revision": 0, "last_node_id": last + 1, "last_link_id": 0, "nodes": [node],
        "links": [], "groups": [], "definitions": {"subgraphs": [subgraph]}, "config": {}, "extra": {}, "version": 0.4,
    }  # fmt: skip
