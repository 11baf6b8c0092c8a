"""Where plugins are found, and what is wrong there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from multigpu import hookspecs
from multigpu.multigpu_core.plugins import PluginManager, PluginRecord, built_in, carried_by_packs, installed, packs_in
from multigpu.multigpu_core.plugins.discovery import Candidate

PLUGIN = """
from multigpu import hookimpl

@hookimpl
def multigpu_unload_policy():
    return []
"""


def registered(candidates: list[Candidate]) -> dict[str, PluginRecord]:
    manager = PluginManager(hookspecs)
    manager.register_all(candidates)
    return manager.records


def a_pack(folder: Path, name: str, pyproject: str = "", **files: str) -> Path:
    pack = folder / name
    pack.mkdir()
    for file, text in files.items():
        (pack / f"{file}.py").write_text(text)
    if pyproject:
        (pack / "pyproject.toml").write_text(pyproject)
    return pack


def an_installed_distribution(site: Path, entry_points: str, metadata: str = "Name: outsider\nVersion: 4.2\n") -> None:
    folder = site / "outsider-4.2.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(metadata)
    (folder / "entry_points.txt").write_text(f"[multigpu.integrations]\n{entry_points}\n")


def test_every_integration_of_ours_can_be_registered_without_comfyui() -> None:
    records = registered(list(built_in()))
    assert records and all(record.works for record in records.values()), records


def test_packs_carry_a_plugin_in_the_usual_file_or_in_the_one_they_name(tmp_path: Path) -> None:
    named = '[project]\nversion = "1.5"\n[tool.multigpu]\nplugin = "ours.py"\n'
    a_pack(tmp_path, "usual", multigpu_plugin=PLUGIN)
    a_pack(tmp_path, "naming", named, ours=PLUGIN, multigpu_plugin="1 / 0")
    a_pack(tmp_path, "without")
    records = registered(list(carried_by_packs(packs_in([tmp_path]))))
    assert {name: (record.works, record.version) for name, record in records.items()} == {
        "naming": (True, "1.5"),
        "usual": (True, ""),
    }


def test_a_disabled_pack_is_passed_over(tmp_path: Path) -> None:
    a_pack(tmp_path, "old.disabled", multigpu_plugin=PLUGIN)
    assert not list(carried_by_packs(packs_in([tmp_path, tmp_path / "no such folder"])))


def test_a_pack_that_names_a_file_which_is_missing_is_in_the_report(tmp_path: Path) -> None:
    a_pack(tmp_path, "forgetful", '[tool.multigpu]\nplugin = "gone.py"\n')
    record = registered(list(carried_by_packs(packs_in([tmp_path]))))["forgetful"]
    assert not record.works and "gone.py" in record.why_not


def test_a_pack_whose_pyproject_is_broken_still_has_its_plugin(tmp_path: Path) -> None:
    a_pack(tmp_path, "careless", "[project\n", multigpu_plugin=PLUGIN)
    assert registered(list(carried_by_packs(packs_in([tmp_path]))))["careless"].works


def test_a_plugin_that_fails_to_import_leaves_no_module_behind(tmp_path: Path) -> None:
    a_pack(tmp_path, "halfway", multigpu_plugin="import no_such_module")
    before = set(sys.modules)
    assert not registered(list(carried_by_packs(packs_in([tmp_path]))))["halfway"].works
    assert not [name for name in set(sys.modules) - before if "halfway" in name]


def test_an_installed_plugin_is_listed_with_its_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    an_installed_distribution(tmp_path, "mine = outsiders_plugin")
    (tmp_path / "outsiders_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    record = registered(list(installed()))["mine"]
    assert (record.works, record.source, record.version) == (True, "outsider", "4.2")


def test_a_distribution_without_a_name_keeps_no_plugin_from_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    an_installed_distribution(tmp_path, "mine = outsiders_other_plugin", metadata="")
    (tmp_path / "outsiders_other_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    assert registered(list(installed()))["mine"].works


def test_a_distribution_that_cannot_be_read_is_in_the_report_and_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    an_installed_distribution(tmp_path, "mine = outsiders_third_plugin")
    (tmp_path / "outsiders_third_plugin.py").write_text(PLUGIN)
    unreadable = tmp_path / "broken" / "outsider-4.2.dist-info"
    unreadable.parent.mkdir()
    an_installed_distribution(unreadable.parent, "")
    (unreadable / "entry_points.txt").write_bytes(b"[multigpu.integrations]\nx = \xff\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(unreadable.parent)
    records = registered(list(installed()))
    assert records["mine"].works
    (broken,) = (record for name, record in records.items() if str(unreadable.parent) in name)
    assert "UnicodeDecodeError" in broken.why_not


def test_the_first_of_two_copies_of_a_distribution_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("later", "earlier"):
        (tmp_path / folder).mkdir()
        an_installed_distribution(tmp_path / folder, "mine = outsiders_fourth_plugin")
        (tmp_path / folder / "outsiders_fourth_plugin.py").write_text(PLUGIN)
        monkeypatch.syspath_prepend(tmp_path / folder)
    assert [name for name in registered(list(installed())) if "mine" in name] == ["mine"]
