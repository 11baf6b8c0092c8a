"""Every node, input, command and sentence of ours is in locales/, in English and Chinese."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..support.in_process import ComfyUI

ROOT = Path(__file__).parents[3]
FILES = {str(file.relative_to(ROOT / "locales")): file for file in (ROOT / "locales").rglob("*.json")}


@pytest.fixture(scope="module")
def locales() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples" / "sources"))
        yield importlib.import_module("locales")
    for name in ("locales", "chinese"):
        sys.modules.pop(name, None)


def test_the_files_are_what_nodes_commands_and_page_say(comfyui: ComfyUI, locales: Any) -> None:
    written = {path: file.read_text(encoding="utf-8") for path, file in FILES.items()}
    assert written == locales.written(comfyui.framework), "run python examples/sources/locales.py"


def test_no_node_with_a_help_page_is_missing_in_either_language() -> None:
    pages = {page.stem for page in (ROOT / "web" / "docs").glob("*.md")}
    for language in ("en", "zh"):
        assert json.loads(FILES[f"{language}/nodeDefs.json"].read_text(encoding="utf-8")).keys() == pages


def test_placeholders_are_the_same_in_both_languages(locales: Any) -> None:
    chinese = importlib.import_module("chinese").PAGE
    for english, translated in chinese.items():
        assert sorted(_placeholders(english)) == sorted(_placeholders(translated)), english


def _placeholders(text: str) -> list[str]:
    return [part.split("}")[0] for part in text.split("{")[1:]]


def test_a_sentence_without_chinese_stops_the_script(comfyui: ComfyUI, locales: Any, monkeypatch: Any) -> None:
    monkeypatch.delitem(importlib.import_module("chinese").PAGE, "Apply")
    with pytest.raises(locales.UntranslatedError, match="Apply") as found:
        locales.written(comfyui.framework)
    assert found.value.sentences == {"Apply"}
