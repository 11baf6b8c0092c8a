"""The example workflows fit the nodes that there are: ids, links and widget values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .inprocess import ComfyUI

EXAMPLES = sorted(Path(__file__).parents[2].joinpath("examples").glob("*.json"))
WITH_A_CONTROL_WIDGET = ("seed", "noise_seed")
"""Inputs behind which the front end stores one more value: what to do after a run."""
FROM_THE_MACHINE = ("_name", "_name1", "_name2", "device")
"""Endings of inputs whose choices are this machine's files and devices."""


@pytest.fixture(params=EXAMPLES, ids=lambda path: path.stem)
def workflow(request: pytest.FixtureRequest) -> dict[str, Any]:
    contents: dict[str, Any] = json.loads(request.param.read_text(encoding="utf-8"))
    return contents


def test_there_are_examples() -> None:
    assert EXAMPLES


def test_every_widget_value_is_one_that_its_node_takes(comfyui: ComfyUI, workflow: dict[str, Any]) -> None:
    for node in workflow["nodes"]:
        if node["type"] == "Note":
            continue
        widgets = _widgets(comfyui, node["type"])
        assert len(node["widgets_values"]) == len(widgets), node["type"]
        for (name, choices), value in zip(widgets, node["widgets_values"], strict=True):
            assert choices is None or value in choices, (node["type"], name, value)


def test_every_link_joins_an_output_to_an_input_of_its_type(comfyui: ComfyUI, workflow: dict[str, Any]) -> None:
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link, source, output, target, slot, kind in workflow["links"]:
        assert comfyui.nodes.NODE_CLASS_MAPPINGS[nodes[source]["type"]].RETURN_TYPES[output] == kind
        socket = nodes[target]["inputs"][slot]
        assert socket["link"] == link
        assert _inputs(comfyui, nodes[target]["type"])[socket["name"]][0] == kind


def test_a_note_says_what_to_change(workflow: dict[str, Any]) -> None:
    assert any(node["type"] == "Note" and "Change" in node["widgets_values"][0] for node in workflow["nodes"])


def _widgets(comfyui: ComfyUI, node_type: str) -> list[tuple[str, list[Any] | None]]:
    """The widgets of a node in order, each with its choices where they do not depend on the machine."""
    widgets: list[tuple[str, list[Any] | None]] = []
    for name, spec in _inputs(comfyui, node_type).items():
        kind, options = spec[0], spec[1] if len(spec) > 1 else {}
        choices = kind if isinstance(kind, (list, tuple)) else options.get("options") if kind == "COMBO" else None
        if choices is None and kind not in ("INT", "FLOAT", "STRING", "BOOLEAN"):
            continue
        fixed = choices is not None and not name.endswith(FROM_THE_MACHINE)
        widgets.append((name, list(choices or ()) if fixed else None))
        if name in WITH_A_CONTROL_WIDGET:
            widgets.append((f"{name} afterwards", ["fixed", "increment", "decrement", "randomize"]))
    return widgets


def _inputs(comfyui: ComfyUI, node_type: str) -> dict[str, Any]:
    types = comfyui.nodes.NODE_CLASS_MAPPINGS[node_type].INPUT_TYPES()
    return {**types.get("required", {}), **types.get("optional", {})}
