"""With all packs present, every node of saved workflows is there."""

from __future__ import annotations

import pytest

from multigpu.multigpu_core.plugins.discovery import built_in_names

from ..support.in_process import ComfyUI, variants_of
from ..support.packs_at_hand import NODES, assert_like_old_node, stand_in


@pytest.fixture(scope="module", autouse=True)
def packs(started_comfyui: ComfyUI) -> None:
    for integration in built_in_names():
        if integration != "comfy_core":
            variants_of(started_comfyui, stand_in(integration), integration)


def test_every_node_is_registered(comfyui: ComfyUI) -> None:
    expected = {*NODES["nodes"], *NODES["also_expected"]}
    assert expected <= comfyui.nodes.NODE_CLASS_MAPPINGS.keys()


@pytest.mark.parametrize("node_id", NODES["nodes"])
def test_a_node_has_the_inputs_of_saved_workflows_in_their_order(comfyui: ComfyUI, node_id: str) -> None:
    if not hasattr(comfyui.nodes.NODE_CLASS_MAPPINGS[node_id], "WRAPPED"):
        pytest.skip("a node of our own")
    assert_like_old_node(comfyui, node_id)
