"""The real packs, where MULTIGPU_PACKS names a folder that holds them: exactly our nodes, models on their devices."""

from __future__ import annotations

import importlib

import pytest

from ..support.in_process import ComfyUI, variants_of
from ..support.packs_at_hand import NODES, assert_like_old_node, import_pack, real_pack

PACKS = {
    "florence2": "ComfyUI-Florence2",
    "hunyuan": "ComfyUI-HunyuanVideoWrapper",
    "ipadapter": "ComfyUI_IPAdapter_plus",
    "ltx": "ComfyUI-LTXVideo",
    "mmaudio": "ComfyUI-MMAudio",
    "nf4": "ComfyUI_bitsandbytes_NF4",
    "pulid": "PuLID_ComfyUI",
    "wanvideo": "ComfyUI-WanVideoWrapper",
    "xflux": "x-flux-comfyui",
}


@pytest.mark.parametrize("integration", PACKS)
def test_a_pack_gets_exactly_its_nodes_with_the_inputs_of_saved_workflows(comfyui: ComfyUI, integration: str) -> None:
    folder = real_pack(PACKS[integration])
    import_pack(comfyui, folder)
    variants_of(comfyui, folder, integration)
    mappings = comfyui.nodes.NODE_CLASS_MAPPINGS
    is_old = integration == "wanvideo" and not (folder / "nodes_model_loading.py").exists()  # of 2025: fewer inputs
    plugin = importlib.import_module(f"multigpu.integrations.{integration}")
    for loader in plugin.multigpu_wrap_loader():
        for variant in loader.variants:
            assert (variant.node_id in mappings) == (loader.target in mappings), variant.node_id
            if variant.node_id in mappings and variant.node_id in NODES["nodes"] and not is_old:
                assert_like_old_node(comfyui, variant.node_id)
