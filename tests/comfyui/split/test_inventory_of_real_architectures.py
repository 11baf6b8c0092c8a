"""The inventory on the architectures that ComfyUI really builds, at their real sizes."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SUPPORT = Path(__file__).parents[1] / "support"
ARCHITECTURES = list(runpy.run_path(str(SUPPORT / "architectures.py"))["ARCHITECTURES"])
Report = dict[str, Any]


@pytest.fixture(scope="module")
def reports(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    workdir = tmp_path_factory.mktemp("inventories")
    command = [sys.executable, str(SUPPORT / "report_inventories.py"), str(comfyui_path), str(workdir)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def report(architecture: str, reports: dict[str, Report]) -> Report:
    found = reports[architecture]
    if "missing" in found:
        pytest.skip(f"this ComfyUI has no such model: {found['missing']}")
    return found


def movable(blocks: list[list[Any]]) -> dict[str, int]:
    return {name: size for name, kind, size in blocks if kind != "head"}


def test_nearly_every_architecture_is_in_this_comfyui(reports: dict[str, Report]) -> None:
    missing = {name: found["missing"] for name, found in reports.items() if "missing" in found}
    assert len(missing) < len(reports) / 4, missing


def test_blocks_sum_to_the_model_exactly(report: Report) -> None:
    assert sum(size for _, _, size in report["live"]) == report["state_bytes"]
    assert sum(size for _, _, size in report["file"]) == report["state_bytes"]


def test_a_live_model_and_its_file_have_the_same_blocks(report: Report) -> None:
    assert sorted(report["live"]) == sorted(report["file"])


def test_no_block_is_large_against_the_model(report: Report) -> None:
    assert len(movable(report["live"])) >= 10
    assert max(movable(report["live"]).values()) < 0.13 * report["state_bytes"]


def test_every_block_that_may_move_is_a_module_that_is_called(report: Report) -> None:
    assert movable(report["live"]).keys() <= set(report["callable"])


def test_an_inventory_takes_a_moment(report: Report) -> None:
    assert report["seconds"] < 0.5


@pytest.mark.parametrize(
    "architecture",
    ["flux", "wan 14B", "qwen image", "ltxv", "hunyuan video", "hidream", "sd3.5 large", "auraflow", "mochi", "chroma"],
)
def test_the_heads_of_a_diffusion_transformer_are_few_bytes(report: Report) -> None:
    assert sum(size for _, kind, size in report["live"] if kind == "head") < 0.04 * report["state_bytes"]


@pytest.mark.parametrize(
    "architecture",
    ["flux", "wan 14B", "chroma", "hidream", "mochi", "cosmos 7B", "sdxl", "t5 xxl", "clip l", "image vae"],
)
def test_a_file_in_alphabetical_order_gives_the_order_of_execution(report: Report) -> None:
    assert list(movable(report["file"])) == list(movable(report["live"]))


@pytest.mark.parametrize(
    ("architecture", "embedding"),
    [
        ("t5 xxl", "shared"),
        ("t5 xxl", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"),
        ("clip l", "text_model.embeddings.token_embedding"),
        ("clip l", "text_model.embeddings.position_embedding"),
        ("gemma 3 12B", "model.embed_tokens"),
    ],
)
def test_embeddings_and_positions_of_text_encoders_are_heads(report: Report, embedding: str) -> None:
    kinds = {name: kind for name, kind, _ in report["live"]}
    assert kinds[embedding] == "head"
