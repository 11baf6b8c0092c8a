"""Stand-ins for node packs, the real ones where they are at hand, and how the two are compared."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from .in_process import ComfyUI

FOLDER = Path(__file__).parents[1]
NODES: dict[str, Any] = json.loads((FOLDER / "data" / "nodes.json").read_text())
NEW_INPUTS = {"keep_loaded", "high_precision_loras", "strategy"}
DEVICES = ["cpu", "npu:0", "npu:1", "npu:2"]


def stand_in(name: str) -> Path:
    return FOLDER / "packs" / name


def real_pack(name: str) -> Path:
    """The real pack in the folder that MULTIGPU_PACKS names; the test is skipped where it is not."""
    folder = Path(os.environ.get("MULTIGPU_PACKS", "")) / name
    if not os.environ.get("MULTIGPU_PACKS") or not folder.is_dir():
        pytest.skip(f"MULTIGPU_PACKS names no folder with the real {name}")
    return folder


def import_pack(comfyui: ComfyUI, folder: Path) -> None:
    """Load a pack as ComfyUI does; the test is skipped where the pack cannot be imported here."""
    _have_a_server()
    importlib.import_module("folder_paths").models_dir = str(comfyui.models)  # where packs make folders of their own
    said = _Said()
    logging.getLogger().addHandler(said)
    try:
        if not asyncio.run(comfyui.nodes.load_custom_node(str(folder), module_parent="custom_nodes")):
            pytest.skip(f"{folder.name} does not import here. {said.last_words}")
    finally:
        logging.getLogger().removeHandler(said)


class _Said(logging.Handler):
    """Keeps what ComfyUI logged last: why it could not import a pack."""

    last_words = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.last_words = record.getMessage().strip()


def _have_a_server() -> None:
    """Some packs ask for ComfyUI's server while they are imported; this one serves nothing."""
    server = importlib.import_module("server").PromptServer
    if not hasattr(server, "instance"):
        server(asyncio.new_event_loop())


RENAMED = {"driving_video": "image"}
"""Inputs that a pack has renamed: WanVideoEncode's, in a fork of June 2026."""


def assert_like_old_node(comfyui: ComfyUI, node_id: str) -> None:
    """A node has the inputs of saved workflows, in their order and sections, and the outputs."""
    expected = NODES["nodes"][node_id]
    node = comfyui.nodes.NODE_CLASS_MAPPINGS[node_id]
    inputs = node.INPUT_TYPES()
    ours = [(name, section) for section in ("required", "optional") for name in inputs.get(section, {})]
    known = [(each["name"], each["section"]) for each in expected["inputs"]]
    listed = node.WRAPPED.INPUT_TYPES()
    if any(name in RENAMED for section in listed.values() for name in section):  # a socket that saved workflows lose
        known = [each for each in known if each[0] not in RENAMED.values()]
        assert {*known} <= {*ours}
    else:
        # What the wrapped class lists since then is new to saved workflows, wherever it is.
        assert [each for each in ours if each in known] == known
    theirs = {name for section in ("required", "optional") for name in listed.get(section, {})}
    new = [name for name, _ in ours if name not in theirs | {name for name, _ in known}]
    assert set(new) <= NEW_INPUTS, f"inputs that nobody asked for: {new}"
    assert new == [name for name, _ in ours][len(ours) - len(new) :], "saved workflows count widgets: new ones are last"
    assert list(node.RETURN_TYPES) == expected["outputs"]
    assert list(getattr(node, "RETURN_NAMES", node.RETURN_TYPES)) == expected["output_names"]


def shape(node: type[Any]) -> dict[str, Any]:
    """What of a node class a stand-in has to have: inputs in order, outputs, and what runs."""
    sections = node.INPUT_TYPES()
    inputs = {
        section: [RENAMED.get(name, name) for name in sections.get(section) or {}]
        for section in ("required", "optional")
    }
    types = {
        RENAMED.get(name, name): spec[0] if isinstance(spec[0], str) else "COMBO"
        for section in inputs
        for name, spec in (sections.get(section) or {}).items()
    }
    return {"inputs": inputs, "types": types, "outputs": list(node.RETURN_TYPES), "function": node.FUNCTION}


def shapes(comfyui: ComfyUI, folder: Path) -> dict[str, dict[str, Any]]:
    """The shapes of all nodes of a pack, by id."""
    before = dict(comfyui.nodes.NODE_CLASS_MAPPINGS)
    for node_id in [each for each, node in before.items() if not hasattr(node, "VARIANT")]:
        if getattr(before[node_id], "RELATIVE_PYTHON_MODULE", "").startswith("custom_nodes."):
            comfyui.nodes.NODE_CLASS_MAPPINGS.pop(node_id)
    kept = dict(comfyui.nodes.NODE_CLASS_MAPPINGS)
    try:
        import_pack(comfyui, folder)
        now = comfyui.nodes.NODE_CLASS_MAPPINGS
        return {node_id: shape(node) for node_id, node in now.items() if node_id not in kept}
    finally:
        comfyui.nodes.NODE_CLASS_MAPPINGS.clear()
        comfyui.nodes.NODE_CLASS_MAPPINGS.update(before)


def assert_no_drift(comfyui: ComfyUI, name: str, real: str) -> None:
    """Every class of a stand-in has the shape of the real class; the real pack may have more classes."""
    theirs = shapes(comfyui, real_pack(real))
    for node_id, ours in shapes(comfyui, stand_in(name)).items():
        assert ours == theirs[node_id], f"{node_id} of {real} has changed"
