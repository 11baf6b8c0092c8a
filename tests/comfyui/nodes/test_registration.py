"""Registering nodes among packs that want the same ids, or come late."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from multigpu import hookimpl, hookspecs
from multigpu.hookspecs import PackDevices, WrappedLoader, split_and_device
from multigpu.multigpu_core.plugins import PluginManager, PluginRecord

from ..support.in_process import ComfyUI


class TheirLoader:
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load"
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})

    def load(self) -> Any:
        return (None,)


class Plugin:
    pack: PackDevices | None = None

    @hookimpl
    def multigpu_wrap_loader(self) -> Iterator[WrappedLoader]:
        for target in ("TheirLoader", "LateLoader", "BrokenLoader"):
            yield WrappedLoader(target, split_and_device(target), self.pack)


class Started:
    """A framework's registration with one plugin, and the nodes that ComfyUI serves."""

    def __init__(self, comfyui: ComfyUI, nodes: dict[str, type]) -> None:
        registration = importlib.import_module("multigpu.multigpu_core.comfy.nodes.registration")
        self._plugins = PluginManager(hookspecs)
        self._plugins.register(Plugin(), "plugin")
        self.nodes = nodes
        self.registration = registration.NodeRegistration(self._plugins, comfyui.framework.context)
        self.registration.register()
        self.nodes.update(self.registration.classes)

    @property
    def record(self) -> PluginRecord:
        return self._plugins.records["plugin"]


@pytest.fixture
def started(comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch) -> Started:
    nodes = {**comfyui.nodes.NODE_CLASS_MAPPINGS, "TheirLoader": TheirLoader}
    monkeypatch.setattr(comfyui.nodes, "NODE_CLASS_MAPPINGS", nodes)
    return Started(comfyui, nodes)


def test_a_node_that_a_later_pack_replaced_is_reported_as_taken(started: Started) -> None:
    started.nodes["TheirLoaderMultiGPU"] = TheirLoader
    started.registration.register_late()
    assert started.record.taken == ("TheirLoaderMultiGPU",)
    assert started.record.nodes == ("TheirLoaderDisTorch2MultiGPU",)
    assert started.nodes["TheirLoaderMultiGPU"] is TheirLoader


def test_variants_of_a_loader_that_comes_late_are_served(started: Started) -> None:
    started.nodes["LateLoader"] = TheirLoader
    started.registration.register_late()
    assert started.record.absent == ("BrokenLoader",)
    late = started.nodes["LateLoaderMultiGPU"]
    assert getattr(late, "RELATIVE_PYTHON_MODULE").startswith("custom_nodes.")  # noqa: B009


def test_a_loader_that_cannot_say_its_inputs_costs_its_own_variants_alone(started: Started) -> None:
    started.nodes["BrokenLoader"] = type("Broken", (TheirLoader,), {"INPUT_TYPES": classmethod(lambda cls: 1 / 0)})
    started.nodes["LateLoader"] = TheirLoader
    started.registration.register_late()
    assert "ZeroDivisionError" in started.record.why_not
    assert "LateLoaderMultiGPU" in started.nodes and "TheirLoaderMultiGPU" in started.nodes


def test_a_pack_whose_nodes_cannot_be_followed_costs_its_own_plugin_alone(
    started: Started, comfyui: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(nodes: Any, pack: Any) -> None:
        raise RuntimeError("not these")

    monkeypatch.setattr(comfyui.framework.context.packs, "follow", refuse)
    monkeypatch.setattr(Plugin, "pack", PackDevices(("MODEL",)))
    again = Started(comfyui, dict(started.nodes))
    assert "not these" in again.record.why_not


def _warnings(logs: list[Any]) -> list[str]:
    return [str(entry["message"]) for entry in logs if entry["log_level"] == "warning"]


def test_the_other_multigpu_extension_is_named_before_anything_is_registered(
    started: Started, comfyui: ComfyUI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rival = tmp_path / "MultiGPU of old"
    rival.mkdir()
    (rival / "pyproject.toml").write_text('[project]\nname = "ComfyUI-MultiGPU"\n')
    folder_paths = importlib.import_module("folder_paths")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "custom_nodes", ([str(tmp_path)], set()))
    with capture_logs() as logs:
        Started(comfyui, dict(started.nodes))
    (line,) = [each for each in _warnings(logs) if "MultiGPU of old" in each]
    assert "Remove or disable one" in line


def test_ids_that_others_have_are_told_in_one_line_for_each_pack_and_stay_theirs(
    started: Started, comfyui: ComfyUI
) -> None:
    theirs = {f"TheirLoader{kind}": TheirLoader for kind in ("MultiGPU", "DisTorch2MultiGPU")}
    started.nodes.update(theirs)
    with capture_logs() as logs:
        again = Started(comfyui, started.nodes)
        again.registration.register_late()
    assert [each for each in _warnings(logs) if "2 node ids that are ours too" in each] == _warnings(logs)
    assert len(_warnings(logs)) == 1
    assert all(started.nodes[node_id] is TheirLoader for node_id in theirs)
