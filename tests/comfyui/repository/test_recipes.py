"""Every allocation string of docs/recipes.md is planned, on the machine of its row, for the model's real weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from multigpu.multigpu_core.allocation import inventory_of_module
from multigpu.multigpu_core.cli.app import app
from multigpu.multigpu_core.provisioning.in_process import ComfyUI

from ..support.architecture_trials import movable, write_sparse_file
from ..support.architectures import ARCHITECTURES

PAGE = Path(__file__).parents[3] / "docs" / "recipes.md"
MODELS = {
    "Flux.2": "Flux.2",
    "Qwen-Image": "Qwen-Image",
    "Z-Image": "Z-Image",
    "Wan 2.2": "Wan 2.1/2.2, text to video",
    "LTX-2": "LTX-2, video and audio",
    "MiniMax-H3": "MiniMax-H3",
}
"""The headings of the page, and the architectures of their models."""
QWEN_IMAGE_21 = {
    "img_in": (4096, 64), "txt_in.in_layer": (4096, 4096), "txt_in.out_layer": (4096, 4096),
    "modulation.1": (16384, 4096), "norm_out.linear": (4096, 4096), "proj_out": (64, 4096),
    **{
        f"transformer_blocks.{index}.{name}": shape
        for index in range(32)
        for name, shape in {
            "attn.to_q": (4096, 4096), "attn.to_k": (4096, 4096), "attn.to_v": (4096, 4096),
            "attn.to_out.0": (4096, 4096), "img_mlp.gate_up": (24576, 4096), "img_mlp.out": (4096, 12288),
        }.items()
    },
}  # fmt: skip
"""The matrices of a model of newer ComfyUI, by name."""
DTYPES = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}


@dataclass(frozen=True)
class Recipe:
    heading: str
    weights: str
    machine: tuple[str, ...]
    string: str
    strategy: str

    def __str__(self) -> str:
        return f"{self.heading}, {self.weights}, {'+'.join(self.machine)}"


def recipes() -> Iterator[Recipe]:
    heading = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        heading = line.removeprefix("## ") if line.startswith("## ") else heading
        if row := re.fullmatch(r"\| (\w+) \| `(.+)` \| `(.+)` \| (\w+) \|", line):
            yield Recipe(heading, row[1], tuple(row[2].split()), row[3], row[4])


RECIPES = tuple(recipes())


@cache
def weights(heading: str) -> dict[str, Tensor]:
    """The weights of a model, without their values."""
    if heading in MODELS:
        return ARCHITECTURES[MODELS[heading]].real().state_dict()
    return {f"{name}.weight": torch.empty(shape, device="meta") for name, shape in QWEN_IMAGE_21.items()}


Plan = Callable[[Recipe], dict[str, Any]]


@pytest.fixture
def plan(tmp_path: Path, simulated_comfyui: ComfyUI) -> Iterator[Plan]:
    """Plans a recipe as a user does: with `multigpu plan`, from the header of a file."""

    def plan(recipe: Recipe) -> dict[str, Any]:
        file = tmp_path / "model.safetensors"
        dtype = DTYPES[recipe.weights]
        write_sparse_file({name: each.to(dtype) for name, each in weights(recipe.heading).items()}, file)
        command = ["plan", str(file), "--json", "--expert", recipe.string, "--strategy", recipe.strategy]
        for device in recipe.machine:
            command += ["--machine", device]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        planned: dict[str, Any] = json.loads(result.stdout)
        return planned

    yield plan
    weights.cache_clear()


def test_the_page_has_recipes_for_one_gpu_and_for_two_of_every_model() -> None:
    assert {recipe.heading for recipe in RECIPES} == {*MODELS, "Qwen-Image 2.1"}
    for heading in (*MODELS, "Qwen-Image 2.1"):
        machines = [len(recipe.machine) for recipe in RECIPES if recipe.heading == heading]
        assert {*machines} == {1, 2}, heading


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_a_string_is_planned_on_its_machine_and_every_device_of_it_stores_something(recipe: Recipe, plan: Plan) -> None:
    planned = plan(recipe)
    named = {part.partition(",")[0] for part in recipe.string.split(";")}
    assert {device for device, size in planned["bytes_by_device"].items() if size} == named


@pytest.mark.parametrize("heading", MODELS)
def test_the_command_plans_the_blocks_of_the_live_model(heading: str, plan: Plan) -> None:
    planned = plan(next(recipe for recipe in RECIPES if recipe.heading == heading and recipe.weights == "bf16"))
    live = inventory_of_module(ARCHITECTURES[MODELS[heading]].real())
    sizes = {block.name: block.size_bytes for block in live.blocks if block.name in movable(live)}
    found = dict.fromkeys((block["name"] for block in planned["blocks"] if block["name"] in sizes), 0)
    for block in planned["blocks"]:
        if block["name"] in found:  # once for each device that stores some of its layers
            found[block["name"]] += block["bytes"]
    assert [*found.items()] == [*sizes.items()]
