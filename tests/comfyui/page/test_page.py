"""What users see and press in ComfyUI's page: the panel, and the allocation editor of a split node."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


def _workflow(steps: int = 1) -> Workflow:
    """Another picture each time: ComfyUI would not run the same one again."""
    return split("npu:0,40%;npu:1,40%;cpu,20%", next(SEEDS), steps)


def _loaded(page: ComfyPage) -> dict[str, Any]:
    (model,) = page.server.client.get("/multigpu/models")
    found: dict[str, Any] = model
    return found


def test_the_panel_shows_every_block_where_it_is(page: ComfyPage) -> None:
    page.run(_workflow(steps=2))
    panel = page.open_panel()
    panel.locator(".multigpu-strip").wait_for()
    shown = panel.locator(".multigpu-block").evaluate_all("blocks => blocks.map(block => block.dataset.device)")
    blocks = _loaded(page)["blocks"]
    assert shown == [block["device"] for block in blocks if block["bytes"]]
    assert len(Counter(shown)) == 3
    text = panel.inner_text()
    assert "tiny-flux.safetensors" in text and "split (interleave)" in text
    measured = dict(zip(panel.locator("dt").all_inner_texts(), panel.locator("dd").all_inner_texts(), strict=True))
    assert "predicted" not in measured and measured["moved in a step"].endswith("MB")
    assert measured["allocation"] == _loaded(page)["expert_string"] + "Copy"
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
    field = editor.locator("#multigpu-expert")
    before, plan_before = field.input_value(), editor.locator(".multigpu-strip").get_attribute("aria-label") or ""
    drag(page.page, editor.locator(".multigpu-handle").first, by_pixels=-120)
    expect(field).not_to_have_value(before)
    expect(editor.locator(".multigpu-strip")).not_to_have_attribute("aria-label", plan_before)
    expect(editor.locator(".multigpu-prediction")).to_have_text("No step time is predicted for simulated devices.")


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
    expect(editor.get_by_role("button", name="Apply")).to_be_disabled()


def test_what_is_written_into_the_node_is_what_the_next_run_uses(page: ComfyPage) -> None:
    editor = page.open_editor(SPLIT_NODE)
    editor.locator("#multigpu-expert").fill("npu:0,20%;npu:1,30%;cpu,50%")
    editor.locator("#multigpu-strategy").select_option("contiguous")
    editor.get_by_role("button", name="Apply").click()
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


@contextmanager
def _changed_state(page: ComfyPage, change: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """The page is answered with a changed state."""
    state = page.server.client.get("/multigpu/state")
    change(state)
    page.page.route("**/multigpu/state", lambda route: route.fulfill(json=state))
    try:
        yield
    finally:
        page.page.unroute("**/multigpu/state")


def test_a_model_s_node_is_selected_and_centred_by_a_press(page: ComfyPage) -> None:
    page.run(_workflow())
    panel = page.open_panel()
    page.page.evaluate("() => { window.app.canvas.ds.offset = [9000, 9000]; window.app.canvas.deselectAll(); }")
    panel.get_by_role("button", name="node load").click()
    selected = page.page.evaluate("() => Object.values(window.app.canvas.selected_nodes).map(node => node.type)")
    assert selected == [SPLIT_NODE] and page.page.evaluate("() => window.app.canvas.ds.offset[0]") < 5000
    page.page.evaluate("type => window.app.graph.remove(window.app.graph.nodes.find(n => n.type === type))", SPLIT_NODE)
    panel.get_by_role("button", name="node load").click()
    expect(panel.locator("[role=status]")).to_have_text("Node load is not in the workflow that is open.")


def test_the_allocation_string_is_copied_whole_and_breaks_after_semicolons(page: ComfyPage) -> None:
    page.run(_workflow())
    page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    panel = page.open_panel()
    allocation = panel.locator("dt", has_text="allocation").locator("+ dd")
    assert allocation.locator("wbr").count() == 3
    panel.get_by_role("button", name="Copy").click()
    expect(panel.locator("[role=status]")).to_have_text("Copied the allocation string.")
    assert page.page.evaluate("() => navigator.clipboard.readText()") == _loaded(page)["expert_string"]


def test_the_panel_shows_what_drivers_report_and_what_a_split_warns_of(page: ComfyPage) -> None:
    page.run(_workflow())
    panel = page.open_panel()
    assert "busy" not in panel.inner_text() and "°C" not in panel.inner_text()

    def change(state: dict[str, Any]) -> None:
        state["devices"][1] |= {"utilization_percent": 87, "temperature_celsius": 64}
        split = next(model["split"] for model in state["models"] if model["split"])
        split |= {"warnings": ["Nothing moved."], "step_bytes": None, "predicted_seconds": 2.5}
        split["blocks"][0]["relayed"] = True
        split["blocks"] += [split["blocks"][1]] * 600

    with _changed_state(page, change):
        expect(panel).to_contain_text("87 % busy, 64 °C")
        expect(panel.locator(".multigpu-warning")).to_have_text("Nothing moved.")
        expect(panel.locator("dt", has_text="moved in a step").locator("+ dd")).to_have_text("not yet measured")
        expect(panel.locator("dt", has_text="predicted").locator("+ dd")).to_have_text("2.50 s")
        expect(panel).to_contain_text("Underlined: computed where it is stored (relay).")
        assert panel.locator(".multigpu-strip").evaluate("strip => strip.scrollWidth <= strip.clientWidth")
    expect(panel.locator(".multigpu-activity").nth(0)).to_have_text("")


def test_an_empty_string_opens_with_a_bar_that_agrees_with_the_table(page: ComfyPage) -> None:
    page.page.evaluate(
        """type => {
            const node = window.app.graph.nodes.find(node => node.type === type);
            node.widgets.find(widget => widget.name === 'expert_mode_allocations').value = '';
            node.widgets.find(widget => widget.name === 'virtual_vram_gb').value = 0.01;
        }""",
        SPLIT_NODE,
    )
    editor = page.open_editor(SPLIT_NODE)
    lines = editor.locator("tbody tr").all()
    rows = {line.locator("th").inner_text(): line.locator("td").first.inner_text() for line in lines}
    segments = editor.locator(".multigpu-segment").evaluate_all("all => all.map(one => one.title.split(': '))")
    assert dict(segments) == rows
    assert rows["cpu"] != "0"


def test_borders_in_one_place_can_each_be_taken(page: ComfyPage) -> None:
    editor = page.open_editor(SPLIT_NODE)
    field = editor.locator("#multigpu-expert")
    field.fill("npu:0,100%")
    first, second = editor.locator(".multigpu-handle").all()
    expect(second).to_have_attribute("aria-valuenow", "100")
    places = [handle.bounding_box() or {} for handle in (first, second)]
    assert places[0]["x"] + places[0]["width"] <= places[1]["x"] + 1
    drag(page.page, first, by_pixels=-100)
    expect(field).not_to_have_value("npu:0,100%")
    assert "npu:1" in field.input_value() and "cpu" not in field.input_value()


def test_an_old_plan_is_dimmed_beside_an_error_and_the_buttons_stay_where_they_are(page: ComfyPage) -> None:
    editor = page.open_editor(SPLIT_NODE)
    opacity = "element => getComputedStyle(element).opacity"
    table, apply = editor.locator(".multigpu-shares"), editor.get_by_role("button", name="Apply")
    before = (apply.bounding_box() or {})["y"]
    assert table.evaluate(opacity) == "1"
    editor.locator("#multigpu-expert").fill("npu:0,8gx")
    editor.locator(".multigpu-fault mark").wait_for()
    assert float(table.evaluate(opacity)) < 0.5
    assert (apply.bounding_box() or {})["y"] == pytest.approx(before, abs=3)


BLUEPRINTS = {
    "Split image model, encoders on the second GPU": (
        {"UNETLoaderDisTorch2MultiGPU", "DualCLIPLoaderMultiGPU", "VAELoaderMultiGPU"}, ["MODEL", "CLIP", "VAE"], [],
    ),
    "Two-expert video, one expert on each GPU": (
        {"UNETLoaderMultiGPU", "CLIPLoaderMultiGPU", "VAELoaderMultiGPU"}, ["MODEL", "MODEL", "CLIP", "VAE"], [],
    ),
    "VAE and upscaler on the second GPU": (
        {"VAELoaderMultiGPU", "VAEDecode", "UpscaleModelLoaderMultiGPU", "ImageUpscaleWithModel"}, ["IMAGE"],
        ["LATENT"],
    ),
}  # fmt: skip
"""The nodes inside each blueprint, its outputs and its inputs."""
FLATTEN = """async workflow => {
    const before = window.app.graph.serialize();
    await window.app.loadGraphData(workflow);
    const [node] = window.app.graph.nodes;
    const made = {
        outputs: node.outputs.map(each => each.type),
        inputs: node.inputs.filter(each => !each.widget).map(each => each.type),
        prompt: (await window.app.graphToPrompt()).output,
    };
    await window.app.loadGraphData(before);
    return made;
}"""


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_a_blueprint_is_offered_and_becomes_the_nodes_of_a_prompt(page: ComfyPage, name: str) -> None:
    nodes, outputs, inputs = BLUEPRINTS[name]
    offered = page.server.client.get("/global_subgraphs")
    (entry,) = [key for key, each in offered.items() if each["name"] == name and "MultiGPU" in json.dumps(each)]
    workflow = json.loads(page.server.client.get(f"/global_subgraphs/{entry}")["data"])
    made = page.page.evaluate(FLATTEN, workflow)
    assert (made["outputs"], made["inputs"]) == (outputs, inputs)
    assert {node["class_type"] for node in made["prompt"].values()} == nodes
    linked = [value for node in made["prompt"].values() for value in node["inputs"].values() if isinstance(value, list)]
    assert all(source in made["prompt"] for source, _ in linked)
    assert len(linked) == (3 if inputs else 0)


def test_the_command_palette_knows_the_panel_the_editor_and_freeing(page: ComfyPage) -> None:
    labels = page.page.evaluate("() => window.app.extensionManager.command.commands.map(each => [each.id, each.label])")
    ours = {id: label for id, label in labels if id.startswith("multigpu.")}
    assert set(ours) == {"multigpu.showPanel", "multigpu.editAllocation", "multigpu.freeEverything"}
    page.page.evaluate(
        """async type => {
            window.app.canvas.selectNode(window.app.graph.nodes.find(node => node.type === type));
            await window.app.extensionManager.command.execute('multigpu.editAllocation');
        }""",
        SPLIT_NODE,
    )
    page.page.locator("dialog.multigpu-editor[data-fits]").wait_for()


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
