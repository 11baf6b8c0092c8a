"""Writes examples/*.json and subgraphs/*.json from the recipes, with the nodes of a real ComfyUI at hand.

python examples/sources/make.py
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from blueprints import BLUEPRINTS, written_blueprint
from recipes import RECIPES
from recipes_of_any_node import ANY_NODE, SELF_LOADING
from recipes_of_integrations import INTEGRATIONS
from ui_format import Recipe, ui_workflow

from multigpu.multigpu_core.provisioning.release import comfyui_folder
from multigpu.multigpu_core.provisioning.server import ComfyUIServer, install_custom_node

EXAMPLES = Path(__file__).parents[1]
SUBGRAPHS = EXAMPLES.parent / "subgraphs"
ALL = (*RECIPES, *INTEGRATIONS, *ANY_NODE)
STAND_INS = EXAMPLES.parent / "tests" / "comfyui" / "packs"


def all_classes(packs: Iterable[Path] = tuple(STAND_INS.iterdir())) -> dict[str, Any]:
    """Every node that a ComfyUI with us and these packs, by default a stand-in for each, serves."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        install_custom_node(base, EXAMPLES.parent, "multigpu-core")
        settings = base / "user" / "multigpu" / "plugins.toml"
        settings.parent.mkdir(parents=True)
        settings.write_text("[nodes]\n" + "".join(f'"{node}" = "cpu"\n' for node in SELF_LOADING), encoding="utf-8")
        for pack in packs:
            install_custom_node(base, pack, pack.name)
        with ComfyUIServer(comfyui_folder(), base, environment={"MULTIGPU_SIMULATE": "4gb,2gb"}) as server:
            return server.client.object_info()


def written(classes: Mapping[str, Any], recipes: Iterable[Recipe] = ALL) -> dict[str, str]:
    """The contents of every example, by file name."""
    return {f"{each.name}.json": json.dumps(ui_workflow(each, classes), indent=1) + "\n" for each in recipes}


def written_subgraphs(classes: Mapping[str, Any]) -> dict[str, str]:
    """The contents of every blueprint, by file name."""
    made = {each.recipe.name: written_blueprint(each, classes) for each in BLUEPRINTS}
    return {f"{name}.json": json.dumps(workflow, indent=1) + "\n" for name, workflow in made.items()}


if __name__ == "__main__":
    served = all_classes()
    SUBGRAPHS.mkdir(exist_ok=True)
    for folder, files in ((EXAMPLES, written(served)), (SUBGRAPHS, written_subgraphs(served))):
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
