"""The examples in docs/ do what they show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.usefixtures("comfyui_path")
@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_every_python_example_runs(page: Path, repository: Path) -> None:
    for example in EXAMPLE.findall(page.read_text(encoding="utf-8")):
        result = subprocess.run([sys.executable, "-c", example], cwd=repository, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
