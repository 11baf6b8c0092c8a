"""*Choose device…* in a node's context menu, in ComfyUI's real page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from multigpu.multigpu_core.provisioning.client import Workflow

from ..support.page import ComfyPage

WORKFLOW: Workflow = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
    "2": {"class_type": "SelfCaption", "inputs": {"image": ["1", 0], "words": "seen", "keep": False}},
    "3": {"class_type": "SelfShow", "inputs": {"text": ["2", 0]}},
    "4": {"class_type": "PreviewImage", "inputs": {"images": ["2", 1]}},
}
FIND = "window.app.graph.getNodeById(2)"


@pytest.fixture
def page(opened: ComfyPage) -> Iterator[ComfyPage]:
    opened.show(WORKFLOW)
    yield opened
    opened.page.keyboard.press("Escape")
    assert opened.complaints == []


def _choose(page: ComfyPage, device: str) -> None:
    """Press the items of the node's context menu."""
    item = page.page.get_by_text("Choose device…").first
    for _ in range(60):  # a press while the page still lays out its canvas opens the canvas's own menu
        if item.is_visible():
            break
        page.page.keyboard.press("Escape")
        page.page.mouse.click(*_title_of_the_node(page), button="right")
        page.page.wait_for_timeout(500)
    item.hover()
    item.click()
    page.page.get_by_text(device, exact=True).last.click()
    expect(item).not_to_be_visible()  # or the next press finds this menu


def _title_of_the_node(page: ComfyPage) -> tuple[float, float]:
    """Where the node's title is on the screen."""
    x, y = page.page.evaluate(
        f"""() => {{
            const node = {FIND}, canvas = window.app.canvas;
            canvas.centerOnNode(node);
            canvas.draw(true, true);
            const [x, y] = canvas.ds.convertOffsetToCanvas([node.pos[0] + 30, node.pos[1] - 10]);
            const box = canvas.canvas.getBoundingClientRect();
            return [x + box.left, y + box.top];
        }}"""
    )
    return x, y


def _node(page: ComfyPage) -> dict[str, Any]:
    found: dict[str, Any] = page.page.evaluate(
        f"""() => {{
            const node = {FIND};
            return {{
                type: node.type, title: node.title, pos: [...node.pos], color: node.color, mode: node.mode,
                values: Object.fromEntries(node.widgets.map((widget) => [widget.name, widget.value])),
                marked: node.properties.marked ?? null,
            }};
        }}"""
    )
    return found


def test_a_node_becomes_its_variant_with_links_values_and_looks(page: ComfyPage) -> None:
    page.page.evaluate(f"() => Object.assign({FIND}, {{title: 'Mine', color: '#223344'}}).properties.marked = 'yes'")
    before = _node(page)
    _choose(page, "npu:1")
    page.page.wait_for_function(f"() => {FIND}.type === 'SelfCaptionMultiGPU'")
    after = _node(page)
    assert after == {**before, "type": "SelfCaptionMultiGPU", "values": {**before["values"], "device": "npu:1"}}
    result = page.run_canvas()
    assert result.outputs["3"]["text"] == ["seen on npu:1, npu:1"]
    assert result.image_files(), "the second output is linked still"


def test_undo_brings_the_node_back(page: ComfyPage) -> None:
    """Chosen by a script: a press of the mouse makes the page note a change by itself."""
    page.page.mouse.click(700, 800)
    page.page.evaluate(
        f"""async () => {{
            const {{ chooseDevice }} = await import('/extensions/ComfyUI-MultiGPU/choose_device.js');
            await chooseDevice({FIND}, 'npu:1');
        }}"""
    )
    page.page.wait_for_function(f"() => {FIND}.type === 'SelfCaptionMultiGPU'")
    page.page.keyboard.press("Control+z")
    page.page.wait_for_function(f"() => {FIND}.type === 'SelfCaption'")
    links = page.page.evaluate(f"() => [{FIND}.inputs[0].link, {FIND}.outputs[0].links.length]")
    assert links[0] is not None and links[1] == 1


def test_a_second_choice_changes_the_device_of_the_same_node(page: ComfyPage) -> None:
    for device in ("npu:1", "npu:0"):
        _choose(page, device)
        page.page.wait_for_function(f"device => {FIND}.widgets.at(-1)?.value === device", arg=device)
    assert _node(page)["type"] == "SelfCaptionMultiGPU"


def test_a_saved_workflow_opens_on_a_machine_that_has_not_made_the_variant(page: ComfyPage) -> None:
    missing = "SelfWorkerMultiGPU"
    assert missing not in page.server.client.object_info()
    page.page.evaluate(
        """async ([type]) => {
            const node = {id: 2, type, pos: [0, 0], size: [200, 60], flags: {}, order: 0, mode: 0, inputs: [],
                          outputs: [], properties: {}, widgets_values: ["npu:1"]};
            await window.app.loadGraphData({
                nodes: [node], links: [], groups: [], version: 0.4, last_node_id: 2, last_link_id: 0, config: {},
                extra: {},
            });
        }""",
        [missing],
    )
    assert page.page.evaluate(f"() => [{FIND}.type, {FIND}.has_errors ?? false]") == [missing, False]
    assert _node(page)["values"]["device"] == "npu:1"
    expect(page.page.get_by_text("missing", exact=False)).to_have_count(0)


def test_variants_inside_subgraphs_of_a_workflow_are_made(page: ComfyPage) -> None:
    workflow = {"nodes": [], "definitions": {"subgraphs": [{"nodes": [{"type": "SelfUpscaleMultiGPU"}]}]}}
    page.page.evaluate(
        """async workflow => {
            const { makeVariantsOf } = await import('/extensions/ComfyUI-MultiGPU/choose_device.js');
            await makeVariantsOf(workflow);
        }""",
        workflow,
    )
    assert page.page.evaluate("() => 'SelfUpscaleMultiGPU' in LiteGraph.registered_node_types")


def test_a_node_inside_a_subgraph_becomes_its_variant_there(page: ComfyPage) -> None:
    inner = page.page.evaluate(
        f"""async () => {{
            const {{ chooseDevice }} = await import('/extensions/ComfyUI-MultiGPU/choose_device.js');
            const {{ subgraph }} = window.app.graph.convertToSubgraph(new Set([{FIND}]));
            await chooseDevice(subgraph.nodes[0], 'npu:1');
            return subgraph.nodes.map(node => node.type);
        }}"""
    )
    assert inner == ["SelfCaptionMultiGPU"]
    assert page.run_canvas().outputs["3"]["text"] == ["seen on npu:1, npu:1"]


def test_a_node_that_cannot_be_moved_stays_and_says_why(page: ComfyPage) -> None:
    page.page.route(
        "**/multigpu/device-choice", lambda route: route.fulfill(status=409, json={"message": "It cannot."})
    )
    try:
        _choose(page, "npu:1")
        expect(page.page.get_by_text("It cannot.")).to_be_visible()
    finally:
        page.page.unroute("**/multigpu/device-choice")
    assert _node(page)["type"] == "SelfCaption"
