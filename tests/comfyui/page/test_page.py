"""What users see and press in ComfyUI's page: the panel, and the allocation editor of a split node."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from multigpu.multigpu_core.provisioning.client import Workflow

from ..support.demo_server import beside, free, split
from ..support.page import ComfyPage, drag

SPLIT_NODE = "UNETLoaderDisTorch2MultiGPU"
EXPERT = "expert_mode_allocations"
SEEDS = itertools.count(1)


@pytest.fixture
def page(opened: ComfyPage) -> Iterator[ComfyPage]:
    """The page with a split Flux workflow on its canvas; afterwards nobody has complained."""
    opened.show(_workflow())
    yield opened
    opened.page.keyboard.press("Escape")
    assert opened.complaints == []


def _workflow() -> Workflow:
    """Another picture each time: ComfyUI would not run the same one again."""
    return split("npu:0,40%;npu:1,40%;cpu,20%", next(SEEDS), 1)


def _loaded(page: ComfyPage) -> dict[str, Any]:
    (model,) = page.server.client.get("/multigpu/models")
    found: dict[str, Any] = model
    return found


def test_the_panel_shows_every_block_where_it_is(page: ComfyPage) -> None:
    page.run(_workflow())
    panel = page.open_panel()
    panel.locator(".multigpu-strip").wait_for()
    shown = panel.locator(".multigpu-block").evaluate_all("blocks => blocks.map(block => block.dataset.device)")
    blocks = _loaded(page)["blocks"]
    assert shown == [block["device"] for block in blocks if block["bytes"]]
    assert len(Counter(shown)) == 3
    text = panel.inner_text()
    assert "tiny-flux.safetensors" in text and "split (interleave)" in text
    measured = dict(zip(panel.locator("dt").all_inner_texts(), panel.locator("dd").all_inner_texts(), strict=True))
    assert measured["predicted"].endswith("s") and measured["moved in a step"].endswith("MB")
    assert measured["allocation"] == _loaded(page)["expert_string"]
    assert [bar.split(":")[0] for bar in _labels(panel.locator(".multigpu-bar"))] == ["npu", "npu", "cpu"]
    assert "staging" in _labels(panel.locator(".multigpu-bar"))[0]


def _labels(elements: Any) -> list[str]:
    found: list[str] = elements.evaluate_all("all => all.map(one => one.getAttribute('aria-label'))")
    return found


def test_the_editor_s_button_is_in_no_prompt_and_no_saved_workflow(page: ComfyPage) -> None:
    made = page.page.evaluate("() => window.app.graphToPrompt()")
    (prompted,) = [node for node in made["output"].values() if node["class_type"] == SPLIT_NODE]
    (saved,) = [node for node in made["workflow"]["nodes"] if node["type"] == SPLIT_NODE]
    assert EXPERT in prompted["inputs"] and not any("edit" in name for name in prompted["inputs"])
    assert len(saved["widgets_values"]) == len(prompted["inputs"]) and None not in saved["widgets_values"]


def test_unloading_a_model_in_the_panel_frees_its_devices(page: ComfyPage) -> None:
    page.run(_workflow())
    panel = page.open_panel()
    panel.get_by_role("button", name="Unload").first.click()
    expect(panel.locator("[role=status]")).to_have_text("Unloaded tiny-flux.safetensors.")
    expect(panel.locator(".multigpu-strip")).to_have_count(0)
    assert page.server.client.get("/multigpu/models") == []


def test_the_panel_says_when_comfyui_does_not_answer_and_when_it_does_again(page: ComfyPage) -> None:
    panel = page.open_panel()
    page.page.route("**/multigpu/state", lambda route: route.abort())
    expect(panel.locator("[role=status]")).to_contain_text("ComfyUI does not respond")
    page.page.unroute("**/multigpu/state")
    expect(panel.locator("[role=status]")).to_have_text("")


def test_a_model_kept_in_the_panel_stays_until_everything_is_freed(page: ComfyPage) -> None:
    both = beside(_workflow(), split("npu:0,50%;cpu,50%", next(SEEDS), 1))
    page.run(both)
    panel = page.open_panel()
    keep = panel.get_by_role("article").filter(has_text="node load again").get_by_role("button", name="Keep")
    keep.click()
    panel.locator("button[aria-pressed=true]").wait_for()
    before = page.server.client.get("/multigpu/models")
    free(page.server, leaves=len(before) - 1, unload_models=True)
    page.run(both)  # begins when ComfyUI has unloaded all that it unloads; its results are cached, and it loads nothing
    kept = _loaded(page)
    assert len(before) == 2 and kept in before and "npu:1" not in kept["bytes_by_device"]
    panel.get_by_role("button", name="Free everything").click()
    expect(panel.locator(".multigpu-strip")).to_have_count(0)
    assert page.server.client.get("/multigpu/models") == []


def test_dragging_a_border_changes_the_string_and_the_plan(page: ComfyPage) -> None:
    editor = page.open_editor(SPLIT_NODE)
    field, prediction = editor.locator("#multigpu-expert"), editor.locator(".multigpu-prediction")
    before, plan_before = field.input_value(), editor.locator(".multigpu-strip").get_attribute("aria-label") or ""
    drag(page.page, editor.locator(".multigpu-handle").first, by_pixels=-120)
    expect(field).not_to_have_value(before)
    expect(editor.locator(".multigpu-strip")).not_to_have_attribute("aria-label", plan_before)
    expect(prediction).to_contain_text("predicted")


def test_borders_move_with_the_keyboard_and_say_what_they_part(page: ComfyPage) -> None:
    editor = page.open_editor(SPLIT_NODE)
    border = editor.get_by_role("slider", name="Border between npu:0 and npu:1")
    before = float(border.get_attribute("aria-valuenow") or 0)
    border.focus()
    border.press("Shift+ArrowRight")
    assert float(border.get_attribute("aria-valuenow") or 0) == pytest.approx(before + 10, abs=1)
    assert "npu:0" in (border.get_attribute("aria-valuetext") or "")


def test_a_wrong_string_is_explained_and_cannot_be_written_into_the_node(page: ComfyPage) -> None:
    editor = page.open_editor(SPLIT_NODE)
    editor.locator("#multigpu-expert").fill("npu:0,50%;npu:9,50%")
    expect(editor.locator(".multigpu-fault mark")).to_have_text("npu:9")
    expect(editor.get_by_role("alert")).to_contain_text("There is no device 'npu:9'")
    expect(editor.get_by_role("button", name="Write into the node")).to_be_disabled()


def test_what_is_written_into_the_node_is_what_the_next_run_uses(page: ComfyPage) -> None:
    editor = page.open_editor(SPLIT_NODE)
    editor.locator("#multigpu-expert").fill("npu:0,20%;npu:1,30%;cpu,50%")
    editor.locator("#multigpu-strategy").select_option("contiguous")
    editor.get_by_role("button", name="Write into the node").click()
    editor.wait_for(state="detached")
    assert page.widget(SPLIT_NODE, EXPERT) == "npu:0,20%;npu:1,30%;cpu,50%"
    page.run_canvas()
    loaded = _loaded(page)
    total = sum(loaded["bytes_by_device"].values())
    assert loaded["strategy"] == "contiguous"
    assert loaded["bytes_by_device"]["cpu"] / total == pytest.approx(0.5, abs=0.1)


def test_the_editor_promises_what_the_load_then_does(page: ComfyPage) -> None:
    with page.page.expect_response("**/multigpu/plan") as answer:
        page.open_editor(SPLIT_NODE)
    planned = answer.value.json()["bytes_by_device"]
    page.page.keyboard.press("Escape")
    page.run_canvas()
    loaded = _loaded(page)
    # The loaded model has one part that is in no file, the sampling's sigmas: a share may round to another whole block.
    block_bytes = max(block["bytes"] for block in loaded["blocks"])
    assert set(planned) == set(loaded["bytes_by_device"])
    assert all(abs(size - loaded["bytes_by_device"][device]) < block_bytes for device, size in planned.items())


def test_saved_workflows_hold_no_value_for_the_button(page: ComfyPage) -> None:
    values = page.page.evaluate(
        "type => window.app.graph.serialize().nodes.find(node => node.type === type).widgets_values", SPLIT_NODE
    )
    assert values[-1] == page.widget(SPLIT_NODE, "strategy")


def test_a_prompt_worker_that_has_died_is_shown_with_its_error(page: ComfyPage) -> None:
    state = page.server.client.get("/multigpu/state") | {"worker_fault": "SystemExit: 3"}
    page.page.route("**/multigpu/state", lambda route: route.fulfill(json=state))
    try:
        alert = page.open_panel().get_by_role("alert")
        expect(alert).to_contain_text("prompt worker has died: SystemExit: 3")
    finally:
        page.page.unroute("**/multigpu/state")
    expect(alert).to_have_count(0)


LOOKS = """async looks => {
    const { Panel } = await import('/extensions/ComfyUI-MultiGPU/panel.js');
    const { api } = await import('/scripts/api.js');
    const state = await (await api.fetchApi('/multigpu/state')).json();
    const root = document.body.appendChild(document.createElement('div'));
    const ask = api.fetchApi;
    let changes = 0;
    api.fetchApi = async () => {
        changes += 1;
        for (const device of state.devices) device.free_bytes += 1;
        for (const { split } of state.models) if (split) split.step_seconds = changes;
        return new Response(JSON.stringify(state));
    };
    const panel = new Panel(root);
    try {
        for (let i = 0; i < looks; i++) await panel.look();
        return root.querySelectorAll('.multigpu-strip').length;
    } finally {
        api.fetchApi = ask;
        panel.close();
        root.remove();
    }
}"""
"""A second panel looks at a server where at each look all has changed, and is closed."""


def test_an_hour_of_looks_leaves_nothing_in_the_page(page: ComfyPage) -> None:
    page.run(_workflow())
    page.open_panel().locator(".multigpu-strip").wait_for()
    devtools = page.page.context.new_cdp_session(page.page)
    devtools.send("Performance.enable")

    def held(looks: int) -> dict[str, float]:
        assert page.page.evaluate(LOOKS, looks) == 1
        devtools.send("HeapProfiler.collectGarbage")
        return {each["name"]: each["value"] for each in devtools.send("Performance.getMetrics")["metrics"]}

    before, after = held(50), held(350)
    for what in ("Nodes", "JSEventListeners", "JSHeapUsedSize"):
        assert after[what] <= before[what] * 1.1, what


def _wishes(page: ComfyPage, node_type: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    """What the editors of a node would ask the planner."""
    found: list[dict[str, Any]] = page.page.evaluate(
        """async ([type, values]) => {
            const { allocationsOf } = await import('/extensions/ComfyUI-MultiGPU/split_node.js');
            const node = window.LiteGraph.createNode(type);
            for (const [name, value] of Object.entries(values))
                node.widgets.find(widget => widget.name === name).value = value;
            const devices = ['cpu', 'npu:0', 'npu:1'];
            return allocationsOf(node).map(each => each.wish('auto', 'interleave', devices));
        }""",
        [node_type, values],
    )
    return found


def test_each_part_of_a_checkpoint_has_an_editor_of_its_own(page: ComfyPage) -> None:
    wishes = _wishes(page, "CheckpointLoaderAdvancedDisTorch2MultiGPU", {"ckpt_name": "all.safetensors"})
    assert [wish["part"] for wish in wishes] == ["diffusion_model", "text_encoder"]
    assert all(wish["files"] == [{"input": "ckpt_name", "name": "all.safetensors"}] for wish in wishes)


def test_a_text_encoder_of_two_files_is_planned_as_one(page: ComfyPage) -> None:
    values = {"clip_name1": "clip_l.safetensors", "clip_name2": "t5xxl.safetensors"}
    (wish,) = _wishes(page, "DualCLIPLoaderDisTorch2MultiGPU", values)
    assert [file["name"] for file in wish["files"]] == ["clip_l.safetensors", "t5xxl.safetensors"]
