"""docs/authoring.md says what the code does."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from multigpu import api, hookspecs, testing
from multigpu.multigpu_core.plugins import PLUGIN_API, PluginManager
from multigpu.multigpu_core.plugins.discovery import GROUP, PACK_FILE

GUIDE = (Path(__file__).parents[3] / "docs" / "authoring.md").read_text(encoding="utf-8")
HOOKS = [name for name in vars(hookspecs) if name.startswith("multigpu_") and callable(getattr(hookspecs, name))]


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_in_the_guide_with_its_exact_parameters(hook: str) -> None:
    parameters = ", ".join(inspect.signature(getattr(hookspecs, hook)).parameters)
    assert f"`{hook}({parameters})`" in GUIDE
    assert inspect.getdoc(getattr(hookspecs, hook))


def test_the_first_example_is_a_working_plugin(tmp_path: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)[0]
    plugin = type("Plugin", (), {})()
    names: dict[str, object] = {}
    exec(code, names)
    plugin.multigpu_wrap_loader = names["multigpu_wrap_loader"]
    manager = PluginManager(hookspecs)
    manager.register(plugin, "guide")
    ((_, loader),) = manager.loaders()
    assert [variant.node_id for variant in loader.variants] == [  # type: ignore[union-attr]
        "MyModelLoaderMultiGPU",
        "MyModelLoaderDisTorch2MultiGPU",
    ]


def test_every_class_that_the_guide_names_is_there() -> None:
    ours = {*dir(hookspecs), *api.__all__, *testing.__all__}
    the_author_s = {"ModelPatcher", "Options"}
    named = {name for name in re.findall(r"[`(=]([A-Z][a-z]\w+)", GUIDE) if not name.startswith("My")}
    assert named - ours - the_author_s == set()


@pytest.mark.parametrize(
    "words",
    [
        GROUP,
        PACK_FILE,
        f"multigpu_api = {PLUGIN_API}",
        "[tool.multigpu]",
        "multigpu_pack",
        "class Options",
        "`check_loader(",
    ],
)
def test_the_names_in_the_guide_are_those_in_the_code(words: str) -> None:
    assert words in GUIDE
