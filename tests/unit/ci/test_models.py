"""The page of models says what the tests of architectures check."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / ".ci" / "models.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_the_page_is_what_the_script_writes(script: dict[str, Any]) -> None:
    assert script["PAGE"].read_text(encoding="utf-8") == script["page"](), "python .ci/models.py --write"


def test_every_file_of_architectures_is_on_the_page(script: dict[str, Any]) -> None:
    folder = SCRIPT.parents[1] / "tests" / "comfyui" / "support" / "architectures"
    assert {file.stem for file in folder.glob("*.py")} == {*script["FILES"], "__init__", "architecture", "not_built"}


def test_a_model_that_is_not_computed_has_a_reason(script: dict[str, Any]) -> None:
    from tests.comfyui.support.architectures.unets import ARCHITECTURES

    name = "SAM 3"
    assert "1008 pixels" in script["table"]({name: ARCHITECTURES[name]})
    with pytest.raises(ValueError, match="SAM 3 is not computed, and nothing says why"):
        script["table"]({name: replace(ARCHITECTURES[name], not_computed="")})
