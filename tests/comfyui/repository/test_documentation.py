"""The examples in docs/ do what they show, and what they say of ComfyUI is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.in_process import ComfyUI

EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
GUIDES = ("index", "choosing", "migrating", "troubleshooting", "how-it-works")
QUOTED = re.compile(r"`([^`\n]+)`")


@pytest.mark.usefixtures("comfyui_path")
@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_every_python_example_runs(page: Path, repository: Path) -> None:
    for example in EXAMPLE.findall(page.read_text(encoding="utf-8")):
        result = subprocess.run([sys.executable, "-c", example], cwd=repository, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def quoted_in_guides() -> set[str]:
    return {name for page in GUIDES for name in QUOTED.findall((DOCS / f"{page}.md").read_text(encoding="utf-8"))}


def test_every_flag_in_the_guides_is_one_of_comfyui_or_of_our_command(
    comfyui_path: Path, quoted_in_guides: set[str]
) -> None:
    known = (comfyui_path / "comfy" / "cli_args.py").read_text(encoding="utf-8")
    ours = set(re.findall(r"--[a-z-]+", (DOCS / "cli.md").read_text(encoding="utf-8")))  # another test runs that page
    flags = {name.split()[0] for name in quoted_in_guides if name.startswith("--")}
    assert len(flags) > 2
    assert [flag for flag in flags - ours if f'"{flag}"' not in known] == []


def test_every_node_in_the_guides_is_ours_or_comfyui_s(comfyui: ComfyUI, quoted_in_guides: set[str]) -> None:
    served = comfyui.nodes.NODE_CLASS_MAPPINGS.keys() | {page.stem for page in (ROOT / "web" / "docs").glob("*.md")}
    named = {name for name in quoted_in_guides if re.fullmatch(r"[A-Z]\w*[a-z]\w*[A-Z]\w*", name)}
    assert len(named) > 10 and named <= served
