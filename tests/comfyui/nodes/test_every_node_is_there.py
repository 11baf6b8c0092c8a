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


@pytest.mark.parametrize("word", ["multi gpu", "second gpu", "device", "vram"])
def test_a_search_for_what_users_want_finds_our_nodes(comfyui: ComfyUI, word: str) -> None:
    for node_id in NODES["nodes"]:
        node = comfyui.nodes.NODE_CLASS_MAPPINGS[node_id]
        assert word in node.SEARCH_ALIASES or node_id == "DeviceSelectorMultiGPU", node_id


def test_inputs_that_are_rarely_used_are_folded_away_and_no_others_of_ours(comfyui: ComfyUI) -> None:
    optional = comfyui.nodes.NODE_CLASS_MAPPINGS["UNETLoaderDisTorch2MultiGPU"].INPUT_TYPES()["optional"]
    assert {name for name, spec in optional.items() if spec[1].get("advanced")} == {
        "eject_models",
        "high_precision_loras",
    }


def test_splits_are_told_from_devices_by_category_search_and_the_beginning_of_the_title(comfyui: ComfyUI) -> None:
    nodes, titles = comfyui.nodes.NODE_CLASS_MAPPINGS, comfyui.nodes.NODE_DISPLAY_NAME_MAPPINGS
    for loader in ("UNETLoader", "CLIPLoader", "VAELoader"):
        split, device = nodes[f"{loader}DisTorch2MultiGPU"], nodes[f"{loader}MultiGPU"]
        assert (split.CATEGORY, device.CATEGORY) == ("multigpu/split", "multigpu/device")
        assert {"split", "offload"} <= set(split.SEARCH_ALIASES) and "split" not in device.SEARCH_ALIASES
        assert titles[f"{loader}DisTorch2MultiGPU"].startswith("DisTorch2: ")
