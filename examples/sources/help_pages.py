"""Writes web/docs/*.md, the help page of every node, from what the nodes are made of.

python examples/sources/help_pages.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from multigpu.multigpu_core.provisioning.in_process import start_comfyui
from multigpu.multigpu_core.provisioning.release import comfyui_folder

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "web" / "docs"


def node_ids_by_example() -> dict[str, set[str]]:
    """The node ids in each example workflow, by the workflow's name."""
    files = sorted((ROOT / "examples").glob("*.json"))
    workflows = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
    return {name: {node["type"] for node in workflow["nodes"]} for name, workflow in workflows.items()}


def written(framework: Any) -> dict[str, str]:
    """The contents of every page, by file name; `framework` is ours, running in a ComfyUI."""
    # Importable only where a ComfyUI is.
    from multigpu.multigpu_core.comfy.page.node_help import help_pages

    pages = help_pages(framework.plugins, framework.context.host, node_ids_by_example())
    return {f"{page.node_id}.md": page.text for page in pages}


def main() -> None:
    with tempfile.TemporaryDirectory() as base:
        made = written(start_comfyui(comfyui_folder(), Path(base)).framework)
    PAGES.mkdir(parents=True, exist_ok=True)
    for page in PAGES.glob("*.md"):
        if page.name not in made:
            page.unlink()
    for name, text in made.items():
        (PAGES / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
