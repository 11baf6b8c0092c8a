"""Packs that tests write themselves, loaded as ComfyUI loads packs, and a way to call their nodes on a device."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from multigpu.multigpu_core.provisioning.in_process import finished

from ..support.in_process import ComfyUI
from ..support.packs_at_hand import import_pack

HEAD = "import torch, sys\nimport comfy.model_management as mm\n"


class WrittenPack:
    """A pack of one file, whose `run` is the function of its node `Written`."""

    def __init__(self, comfyui: ComfyUI, file: Path) -> None:
        self._comfyui = comfyui
        self._nodes: dict[str, Any] = {}
        self.any_node = comfyui.framework.any_node
        import_pack(comfyui, file)
        self.variables = vars(sys.modules[comfyui.nodes.NODE_CLASS_MAPPINGS["Written"].__module__])

    def plain(self, node_id: str = "Written", **inputs: Any) -> Any:
        node = self._comfyui.nodes.NODE_CLASS_MAPPINGS[node_id]
        held = self._nodes.setdefault(node_id, node())
        result = finished(getattr(held, node.FUNCTION)(**inputs))
        return result[0] if len(result) == 1 else result

    def on(self, device: Any, node_id: str = "Written", **inputs: Any) -> Any:
        choice = self.any_node.choice_for(node_id)
        return self.plain(choice.node_id, **{choice.device_input: device}, **inputs)


@pytest.fixture
def write_pack(comfyui: ComfyUI, tmp_path: Path) -> Iterator[Callable[..., WrittenPack]]:
    """Load a pack from its source: `run`, and attributes of its node class."""
    before = dict(comfyui.nodes.NODE_CLASS_MAPPINGS)

    def write(source: str, attributes: str = 'RETURN_TYPES = ("STRING",)', inputs: str = "{}") -> WrittenPack:
        folder = tmp_path / "written_pack"
        folder.mkdir()
        node = f"class Written:\n    FUNCTION = 'call'\n    CATEGORY = 'x'\n    {attributes}\n"
        node += f"    INPUT_TYPES = classmethod(lambda cls: {{'required': {inputs}}})\n"
        node += "    def call(self, **inputs):\n        return (run(**inputs),)\n"
        (folder / "__init__.py").write_text(f"{HEAD}{source}\n{node}NODE_CLASS_MAPPINGS = {{'Written': Written}}\n")
        return WrittenPack(comfyui, folder)

    yield write
    for name in [name for name in sys.modules if str(tmp_path).replace(".", "_x_") in name]:
        del sys.modules[name]
    comfyui.nodes.NODE_CLASS_MAPPINGS.clear()
    comfyui.nodes.NODE_CLASS_MAPPINGS.update(before)
    comfyui.framework.any_node.release()
