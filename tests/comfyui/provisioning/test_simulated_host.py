"""The real ComfyUI, unpatched, computes on simulated accelerators as on real ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "support" / "sample_on_each_device.py"


CASES = [
    "flux/float32",
    "flux/bfloat16",
    "flux/bfloat16/float8_e4m3fn",
    "flux/float8_e4m3fn/float8_e4m3fn",
    "wan/bfloat16",
    "wan/float8_e4m3fn",
    "checkpoint/bfloat16",
]

Seen = dict[str, list[dict[str, Any]]]


def _sample(comfyui: Path, work: Path, cases: list[str], machine: str) -> Seen:
    environment = os.environ | {"MULTIGPU_SIMULATE": machine}
    command = [sys.executable, str(SCRIPT), str(comfyui), str(work), *cases]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen: Seen = json.loads(done.stdout.splitlines()[-1])
    return seen


@pytest.fixture(scope="module")
def seen_on_two_equal_cards(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return _sample(comfyui_path, tmp_path_factory.mktemp("models"), CASES, machine="2x4gb")


@pytest.mark.parametrize("case", CASES)
def test_a_model_gives_the_same_picture_on_either_card(case: str, seen_on_two_equal_cards: Seen) -> None:
    first, second = seen_on_two_equal_cards[case]
    assert (first["load_device"], second["load_device"]) == ("npu:0", "npu:1")
    assert first["latent"] == second["latent"] and first["image"] == second["image"]
    assert 0.1 < first["spread"] < 100, "the picture is neither empty nor broken"


@pytest.mark.parametrize("case", CASES)
def test_comfyui_loads_the_whole_model_into_the_memory_of_the_card(case: str, seen_on_two_equal_cards: Seen) -> None:
    for run in seen_on_two_equal_cards[case]:
        assert run["state"] == "NORMAL_VRAM"
        assert run["loaded_bytes"] == run["model_bytes"] < run["peak_bytes"]
        assert run["copied_bytes"] >= run["model_bytes"]
        assert run["left_bytes"] == 0, "unloading gives every byte back"


def test_weights_stay_in_the_dtype_that_was_asked_for(seen_on_two_equal_cards: Seen) -> None:
    assert seen_on_two_equal_cards["flux/bfloat16/float8_e4m3fn"][0]["weights"] == ["torch.float8_e4m3fn"]


def test_a_card_too_small_for_the_model_gets_part_of_it(comfyui_path: Path, tmp_path: Path) -> None:
    large, small = _sample(comfyui_path, tmp_path, ["flux/bfloat16"], machine="4gb,1gb")["flux/bfloat16"]
    assert large["loaded_bytes"] == large["model_bytes"]
    assert small["loaded_bytes"] < small["model_bytes"], "ComfyUI offloads what it thinks does not fit"
    assert small["load_device"] == "npu:1" and small["left_bytes"] == 0
