"""Every node has a help page, and it says what the node that ComfyUI serves says."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multigpu.multigpu_core.allocation import AllocationError, PlanError
from multigpu.multigpu_core.allocation.language.parser import parse_expert
from multigpu.multigpu_core.comfy.page import node_help
from multigpu.multigpu_core.comfy.split.load_oom import LoadOutOfMemoryError, Shortage
from multigpu.multigpu_core.devices import DeviceError
from multigpu.multigpu_core.plugins.discovery import built_in_names

from ..support.in_process import ComfyUI, variants_of
from ..support.packs_at_hand import stand_in

ROOT = Path(__file__).parents[3]
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in (ROOT / "web" / "docs").glob("*.md")}


@pytest.fixture(scope="module", autouse=True)
def packs(started_comfyui: ComfyUI) -> None:
    for integration in built_in_names():
        if integration != "comfy_core":
            variants_of(started_comfyui, stand_in(integration), integration)


@pytest.fixture(scope="module")
def made(started_comfyui: ComfyUI) -> Iterator[dict[str, str]]:
    """The pages as they are made now, by file name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples" / "sources"))
        yield importlib.import_module("help_pages").written(started_comfyui.framework)
    sys.modules.pop("help_pages", None)


def nodes_of_ours(comfyui: ComfyUI) -> dict[str, Any]:
    served = comfyui.nodes.NODE_CLASS_MAPPINGS
    return {node_id: node for node_id, node in served.items() if hasattr(node, "VARIANT")}


def test_pages_are_those_that_the_nodes_make(made: dict[str, str]) -> None:
    assert {f"{node_id}.md": text for node_id, text in PAGES.items()} == made, (
        "run python examples/sources/help_pages.py"
    )


def test_every_node_has_a_page_and_no_page_is_without_a_node(comfyui: ComfyUI) -> None:
    manager = comfyui.framework.plugins
    lacking = {
        variant.node_id
        for _, loader in list(manager.loaders())
        if hasattr(loader, "variants") and loader.target not in comfyui.nodes.NODE_CLASS_MAPPINGS
        for variant in loader.variants
    }
    assert len(lacking) < 10, "of a pack's stand-in, or of this ComfyUI, too little is there to compare"
    assert nodes_of_ours(comfyui).keys() | {"DeviceSelectorMultiGPU"} == PAGES.keys() - lacking


def test_a_page_has_every_input_that_the_served_node_adds_with_its_tooltip(comfyui: ComfyUI) -> None:
    compared = 0
    for node_id, node in nodes_of_ours(comfyui).items():
        theirs = node.WRAPPED.INPUT_TYPES()
        served = node.INPUT_TYPES()
        for section in ("required", "optional"):
            for name, spec in served.get(section, {}).items():
                if spec != theirs.get(section, {}).get(name):
                    tooltip = node_help.as_markdown(spec[1]["tooltip"])
                    assert f"- **`{name}`**" in PAGES[node_id] and tooltip in PAGES[node_id], f"{node_id}: {name}"
                    compared += 1
    assert compared > 2 * len(PAGES)


def test_no_page_names_a_device_of_the_machine_that_made_it(comfyui: ComfyUI) -> None:
    described = PAGES["DeviceSelectorMultiGPU"]
    for node_id, text in PAGES.items():
        assert "npu:1" not in text, node_id
    assert "`cuda:0`" in described and "`multigpu devices`" in described


def test_a_page_begins_with_the_name_that_the_node_has_in_the_library_and_has_no_table(comfyui: ComfyUI) -> None:
    titles = importlib.import_module("nodes").NODE_DISPLAY_NAME_MAPPINGS
    for node_id in ("UNETLoaderDisTorch2MultiGPU", "VAELoaderMultiGPU", "DeviceSelectorMultiGPU"):
        assert PAGES[node_id].startswith(f"# {titles[node_id]}\n\n`{node_id}`"), node_id
    assert not [node_id for node_id, text in PAGES.items() if "\n|" in text]


@pytest.mark.parametrize("text", [text for text, _ in node_help.SHARES])
def test_every_string_in_the_pages_is_of_the_language(text: str) -> None:
    request = parse_expert(text, compute_device="cuda:0", known=("cuda:0", "cuda:1", "cpu"))
    assert request.splits and f"- `{text}`: " in PAGES["UNETLoaderDisTorch2MultiGPU"]


def test_the_messages_that_the_pages_explain_are_those_that_users_read(comfyui: ComfyUI) -> None:
    not_splittable = importlib.import_module("multigpu.multigpu_core.comfy.nodes.loading").NotSplittableError
    with pytest.raises(AllocationError) as wrong:
        parse_expert("cuda:0", compute_device="cuda:0", known=("cuda:0",))
    said = " ".join(
        [
            str(wrong.value),
            str(DeviceError("cuda:7", ("cpu",))),
            str(PlanError("cuda:0", 2, 1, "")),
            str(not_splittable("UNETLoaderDisTorch2MultiGPU", "why")),
            str(LoadOutOfMemoryError(Shortage("cuda:0", 2, 1), "")),
            LoadOutOfMemoryError.__mro__[1].__name__,
        ]
    )
    for words in (*node_help.REFUSALS, *node_help.SPLIT_REFUSALS):
        assert words in said
