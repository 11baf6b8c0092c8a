"""Every example has a picture of where its models are, drawn from what it loads; and links to its files."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from .pages import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.json"))


@pytest.fixture(scope="module")
def drawing() -> Iterator[Any]:
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "assets"))
        patch.syspath_prepend(str(ROOT / "examples" / "sources"))
        yield importlib.import_module("draw_templates")
    for name in set(sys.modules) - before:
        if str(ROOT / "examples") in str(getattr(sys.modules[name], "__file__", "")) or name == "draw_templates":
            sys.modules.pop(name)


def test_each_example_has_a_picture_and_no_picture_is_of_another() -> None:
    pictures = {path.stem for path in (ROOT / "examples").glob("*.jpg")}
    assert pictures == {path.stem for path in EXAMPLES}


def test_a_picture_shows_each_model_with_its_devices(drawing: Any) -> None:
    recipes = {each.name: each for each in importlib.import_module("recipes").RECIPES}
    model, encoders, vae = drawing.rows_of(recipes["Flux computed by both cards"].nodes)
    assert model.computes == "cuda:0 and cuda:1" and sorted(model.blocks) == ["cuda:0"] * 6 + ["cuda:1"] * 6
    assert model.blocks != ("cuda:0",) * 6 + ("cuda:1",) * 6, "spread, not in two pieces"
    assert {*encoders.blocks, *vae.blocks} == {"cuda:1"}
    every = [importlib.import_module(name) for name in ("recipes_of_any_node", "recipes_of_integrations")]
    for recipe in (*recipes.values(), *every[0].ANY_NODE, *every[1].INTEGRATIONS):
        rows = drawing.rows_of(recipe.nodes)
        assert rows and all(set(row.blocks) <= set(drawing.COLOURS) for row in rows), recipe.name
        assert drawing.draw(recipe.name, rows).size == drawing.SIZE


def test_files_that_can_be_downloaded_have_links_that_the_page_accepts() -> None:
    links = [
        link
        for path in EXAMPLES
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]
        for link in node["properties"].get("models", [])
        if link["name"] in node["widgets_values"]
    ]
    assert {link["name"] for link in links} >= {"flux1-dev.safetensors", "ae.safetensors", "sd_xl_base_1.0.safetensors"}
    for link in links:
        assert link.keys() == {"name", "url", "directory"}
        assert link["url"].startswith("https://huggingface.co/") and link["url"].endswith("/" + link["name"])
