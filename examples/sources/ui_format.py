"""Writes a recipe as ComfyUI's front end saves workflows: nodes in columns, links, widget values in their order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_links import links_of

WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3", "COLORCODE")
SEEDS = ("seed", "noise_seed")  # the front end adds "control after generate" to every widget of these names
FILE_SUFFIXES = (".safetensors", ".gguf", ".bin", ".png", ".mp4", ".mp3")
UPLOADS = ("image_upload", "video_upload", "audio_upload")
COLUMN, GAP, ROW, HEAD, TEXT_HEIGHT = 440, 40, 26, 60, 80
NODE_WIDTH = 400
NOTE_SIZE = (840, 150)


@dataclass(frozen=True)
class Wire:
    """An output of another node of the recipe."""

    node: str
    output: int = 0


@dataclass(frozen=True)
class Node:
    """One node: its class, its inputs by name (the rest is as the class has it by default), and what it is called."""

    type: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""


@dataclass(frozen=True)
class Recipe:
    """A workflow: its name, a note that says what it is for and what to change, and its nodes by names of their own.

    `pack` is the folder of the node pack that it needs beside ComfyUI.
    """

    name: str
    note: str
    nodes: Mapping[str, Node]
    pack: str = ""


class RecipeError(ValueError):
    """A recipe that does not fit the nodes that there are: `recipe`, `node`, and what is wrong."""

    def __init__(self, recipe: str, node: str, reason: str) -> None:
        super().__init__(f"{recipe}, {node}: {reason}")


def ui_workflow(recipe: Recipe, classes: Mapping[str, Any]) -> dict[str, Any]:
    """The workflow in UI format; `classes` is what ComfyUI answers at /object_info.

    Raises:
        RecipeError: a class, an input, a choice or the type of a link is not as the recipe has it.
    """
    return _Writer(recipe, classes).workflow()


class _Writer:
    def __init__(self, recipe: Recipe, classes: Mapping[str, Any]) -> None:
        self._recipe = recipe
        self._classes = classes
        self._ids = {name: number for number, name in enumerate(recipe.nodes, 1)}
        self._links: list[list[Any]] = []

    def workflow(self) -> dict[str, Any]:
        made = [self._node(name, node) for name, node in self._recipe.nodes.items()]
        for link, source, output, *_ in self._links:
            outputs = next(node for node in made if node["id"] == source)["outputs"]
            outputs[output]["links"].append(link)
        self._place(made)
        note = {
            "id": len(made) + 1, "type": "Note", "pos": [GAP, -NOTE_SIZE[1] - GAP], "size": list(NOTE_SIZE),
            "flags": {}, "order": len(made), "mode": 0, "inputs": [], "outputs": [], "properties": {},
            "widgets_values": [self._recipe.note],
        }  # fmt: skip
        return {
            "last_node_id": len(made) + 1, "last_link_id": len(self._links), "nodes": [*made, note],
            "links": self._links, "groups": [], "config": {}, "extra": {}, "version": 0.4,
        }  # fmt: skip

    def _fail(self, name: str, reason: str) -> RecipeError:
        return RecipeError(self._recipe.name, name, reason)

    def _node(self, name: str, node: Node) -> dict[str, Any]:
        known = self._classes.get(node.type)
        if known is None:
            raise self._fail(name, f"there is no node {node.type}")
        inputs = dict(self._inputs(known))
        if unknown := sorted(set(node.inputs) - set(inputs)):
            raise self._fail(name, f"{node.type} has no input {', '.join(unknown)}")
        sockets: list[dict[str, Any]] = []
        widgets: list[Any] = []
        for key, spec in inputs.items():
            given = node.inputs.get(key)
            if isinstance(given, Wire):
                sockets.append(self._socket(name, key, spec, given, len(sockets)))
            if _is_widget(spec):
                widgets += self._widget(name, key, spec, None if isinstance(given, Wire) else given)
            elif given is None and key in known["input"].get("required", {}):
                raise self._fail(name, f"{node.type} needs a link to {key}")
        outputs = [
            {"name": label, "type": kind, "links": []}
            for label, kind in zip(known["output_name"], known["output"], strict=True)
        ]
        # The front end draws every socket, linked or not.
        rows = max(sum(not _is_widget(spec) for spec in inputs.values()), len(outputs)) + len(widgets)
        height = HEAD + ROW * rows + TEXT_HEIGHT * _texts(inputs)
        made = {
            "id": self._ids[name], "type": node.type, "pos": [0, 0],
            "size": [NODE_WIDTH, height], "flags": {}, "order": self._ids[name] - 1,
            "mode": 0, "inputs": sockets, "outputs": outputs, "properties": _properties(node),
            "widgets_values": widgets,
        }  # fmt: skip
        return {**made, "title": node.title} if node.title else made

    def _inputs(self, known: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for section in ("required", "optional"):
            yield from known["input"].get(section, {}).items()

    def _socket(self, name: str, key: str, spec: Any, wire: Wire, slot: int) -> dict[str, Any]:
        kind = self._classes[self._recipe.nodes[wire.node].type]["output"][wire.output]
        if kind not in spec[0].split(",") and "*" not in (kind, spec[0]):
            raise self._fail(name, f"{key} is a {spec[0]}, and {wire.node} gives a {kind}")
        link = len(self._links) + 1
        self._links.append([link, self._ids[wire.node], wire.output, self._ids[name], slot, kind])
        return {"name": key, "type": kind, "link": link, **({"widget": {"name": key}} if _is_widget(spec) else {})}

    def _widget(self, name: str, key: str, spec: Any, given: Any) -> list[Any]:
        options = spec[1] if len(spec) > 1 else {}
        choices = spec[0] if isinstance(spec[0], list) else _keys(options.get("options"))
        value = given
        if value is None:
            value = options.get("default", (choices or [""])[0])
        if choices and given is not None and not _is_choice(given, choices):
            raise self._fail(name, f"{key} cannot be {value!r}; there are {choices}")
        more = ["randomize"] if options.get("control_after_generate") or key in SEEDS else []
        return [value, *more, *(["image"] if any(map(options.get, UPLOADS)) else [])]

    def _place(self, made: list[dict[str, Any]]) -> None:
        """Every node in the column behind those that it takes from, one below the other."""
        sources: dict[int, list[int]] = {node["id"]: [] for node in made}
        for _, source, _, target, *_ in self._links:
            sources[target].append(source)

        def column(number: int) -> int:
            return 1 + max(map(column, sources[number]), default=-1)

        heights: dict[int, int] = {}
        for node in made:
            at = column(node["id"])
            node["pos"] = [GAP + at * COLUMN, heights.get(at, 0)]
            heights[at] = heights.get(at, 0) + node["size"][1] + GAP


def _properties(node: Node) -> dict[str, Any]:
    links = links_of(node.inputs)
    return {"Node name for S&R": node.type, **({"models": links} if links else {})}


def _texts(inputs: Mapping[str, Any]) -> int:
    """How many widgets have several lines."""
    return sum(bool(spec[1].get("multiline")) for spec in inputs.values() if len(spec) > 1 and _is_widget(spec))


def _is_widget(spec: Any) -> bool:
    options = spec[1] if len(spec) > 1 else {}
    kind = options.get("widgetType", spec[0])
    return (isinstance(kind, list) or kind in WIDGET_TYPES) and not options.get("forceInput")


def _keys(options: Any) -> Any:
    """The choices of a combo; those of a dynamic one have inputs of their own."""
    return [each["key"] if isinstance(each, dict) else each for each in options or []]


def _is_choice(given: Any, choices: Sequence[Any]) -> bool:
    """Whether a value can be chosen: model files are those of the user, and cards are called cuda in examples."""
    if not isinstance(given, str):
        return given in choices
    return given.replace("cuda", "npu") in choices or Path(given).suffix in FILE_SUFFIXES
