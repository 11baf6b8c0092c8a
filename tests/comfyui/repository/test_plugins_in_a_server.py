"""Packs that carry plugins, in a real ComfyUI server: whatever is loaded first, and however broken a neighbour is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multigpu.multigpu_core.provisioning.server import ComfyUIServer, install_custom_node

LOADER_PACK = """
class {name}:
    INPUT_TYPES = classmethod(lambda cls: {{"required": {{"file": (["a", "b"],)}}}})
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load"
    def load(self, file):
        raise NotImplementedError

NODE_CLASS_MAPPINGS = {{"{name}": {name}}}
"""
PLUGIN = """
from multigpu import hookimpl
from multigpu.hookspecs import WrappedLoader, split_and_device

@hookimpl
def multigpu_wrap_loader():
    return [WrappedLoader(name, split_and_device(name)) for name in {names}]
"""

TIDY = """
from pathlib import Path
from multigpu import hookimpl

file = Path({file!r})

@hookimpl
def multigpu_startup():
    file.write_text("started")

@hookimpl
def multigpu_shutdown():
    file.write_text(file.read_text() + ", ended")
"""

THIEF = """
from multigpu import hookimpl
from multigpu.hookspecs import OwnNode

class Mine:
    RETURN_TYPES = ()
    FUNCTION = "run"
    CATEGORY = "mine"
    def run(self):
        return ()

@hookimpl
def multigpu_wrap_loader():
    return [OwnNode("KSampler", "Mine", Mine), OwnNode("Own", "Own", Mine)]
"""


@pytest.fixture(scope="module")
def server(comfyui_path: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUIServer]:
    base = tmp_path_factory.mktemp("base")
    install_custom_node(base, repository, "m multigpu")
    packs = base / "custom_nodes"
    # ComfyUI loads folders in no order of ours: of two, one comes before us or both after.
    for pack, name in (("a pack", "FirstLoader"), ("z pack", "LastLoader")):
        (packs / pack).mkdir()
        (packs / pack / "__init__.py").write_text(LOADER_PACK.format(name=name))
        (packs / pack / "multigpu_plugin.py").write_text(PLUGIN.format(names=[name, "NeverThere"]))
    broken = packs / "broken pack"
    broken.mkdir()
    (broken / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}")
    (broken / "pyproject.toml").write_text('[project]\nversion = "3.1"\n[tool.multigpu]\nplugin = "ours.py"\n')
    (broken / "ours.py").write_text("import no_such_module")
    thief = packs / "thief"
    thief.mkdir()
    (thief / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}")
    (thief / "multigpu_plugin.py").write_text(THIEF)
    for pack, text in (("ComfyUI-GGUF", "import no_such_module"), ("comfyui-florence2.disabled", "")):
        (packs / pack).mkdir()
        (packs / pack / "__init__.py").write_text(text)
    with ComfyUIServer(comfyui_path, base, environment={"MULTIGPU_SIMULATE": "1gb"}) as running:
        yield running


@pytest.fixture(scope="module")
def report(server: ComfyUIServer) -> dict[str, dict[str, Any]]:
    return {record["name"]: record for record in server.client.get("/multigpu/plugins")}


@pytest.mark.parametrize("loader", ["FirstLoader", "LastLoader"])
def test_a_pack_gets_its_variants_whenever_comfyui_loads_it(server: ComfyUIServer, loader: str) -> None:
    info = server.client.object_info()
    for node_id in (f"{loader}MultiGPU", f"{loader}DisTorch2MultiGPU"):
        assert info[node_id]["input_order"]["required"] == ["file"]
        assert info[node_id]["python_module"].startswith("custom_nodes.")


def test_the_report_says_what_each_plugin_came_to(report: dict[str, dict[str, Any]]) -> None:
    core = report["comfy_core"]
    assert core["works"] and {"UNETLoaderMultiGPU", "VAELoaderDisTorch2MultiGPU", "UNetLoaderLP"} <= {*core["nodes"]}
    for pack in ("a pack", "z pack"):
        assert report[pack]["works"]
        assert len(report[pack]["nodes"]) == 2
        assert report[pack]["absent"] == ["NeverThere"]


def test_a_broken_plugin_is_reported_with_its_version_and_its_traceback_is_in_the_log_alone(
    server: ComfyUIServer, report: dict[str, dict[str, Any]]
) -> None:
    broken = report["broken pack"]
    assert not broken["works"] and broken["version"] == "3.1"
    assert "no_such_module" in broken["why_not"] and "Traceback" in server.log_text()
    answered = str(list(report.values()))
    assert "Traceback" not in answered and str(server.base_directory) not in answered


@pytest.mark.parametrize(
    ("plugin", "pack", "state"),
    [
        ("gguf", "ComfyUI-GGUF", "import failed"),
        ("florence2", "comfyui-florence2", "disabled"),
        ("mmaudio", "ComfyUI-MMAudio", "absent"),
        ("a pack", "a pack", "loaded"),
        ("comfy_core", "ComfyUI", "loaded"),
    ],
)
def test_the_report_says_what_became_of_each_target_pack(
    report: dict[str, dict[str, Any]], plugin: str, pack: str, state: str
) -> None:
    (target,) = report[plugin]["targets"]
    assert (target["name"], target["state"]) == (pack, state)
    assert bool(report[plugin]["nodes"]) == (state == "loaded")


def test_no_plugin_replaces_a_core_node(server: ComfyUIServer, report: dict[str, dict[str, Any]]) -> None:
    assert report["thief"]["taken"] == ["KSampler"]
    assert report["thief"]["nodes"] == ["Own"]
    assert "model" in server.client.object_info()["KSampler"]["input"]["required"]


def test_a_plugin_is_told_when_comfyui_ends(comfyui_path: Path, repository: Path, tmp_path: Path) -> None:
    install_custom_node(tmp_path, repository, "multigpu")
    pack = tmp_path / "custom_nodes" / "tidy"
    pack.mkdir()
    (pack / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}")
    (pack / "multigpu_plugin.py").write_text(TIDY.format(file=str(tmp_path / "told")))
    command = [sys.executable, "main.py", "--base-directory", str(tmp_path), "--quick-test-for-ci"]
    environment = {**os.environ, "MULTIGPU_SIMULATE": "1gb"}
    options = ("--database-url", "sqlite:///:memory:", "--disable-api-nodes")
    subprocess.run([*command, *options], cwd=comfyui_path, env=environment, check=True, capture_output=True)
    assert (tmp_path / "told").read_text() == "started, ended"


def test_the_log_has_a_line_for_each_plugin_that_lacks_something(server: ComfyUIServer) -> None:
    log = server.log_file.read_text()
    assert "FAILED: ModuleNotFoundError: No module named 'no_such_module'" in log
    assert "not here: NeverThere" in log
