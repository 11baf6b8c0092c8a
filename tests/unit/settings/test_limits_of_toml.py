"""TOML from strangers: what is in it or a ValueError, in a number of steps that is in proportion to its length."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multigpu.multigpu_core.plugins import name_of_pack, read_configuration, user_files
from multigpu.multigpu_core.settings.toml import _STRUCTURE, MAX_BYTES, MAX_DEPTH, read_toml

from ..conftest import Steps

DEEP = {
    "arrays": "a = " + "[" * 50_000,
    "inline tables": "a = " + "{a = " * 30_000,
    "a dotted key": ".".join("a" * 50_000) + " = 1",
    "a dotted table": "[" + ".".join("a" * 50_000) + "]",
    "a dotted key of texts": " . ".join(['"a"'] * 30_000) + " = 1",
    "a key below a setting": "[memory]\nretry_load." + ".".join("a" * 1000) + " = 1",
    "size": "a = 1\n" * 100_000,
    "a number in hexadecimal": "[memory]\nretry_load = 0x" + "f" * 20_000,
    "a number": "[memory]\nretry_load = " + "9" * 20_000,
}


@pytest.mark.parametrize("kind", DEEP)
def test_no_file_of_ours_or_of_another_pack_is_too_much(tmp_path: Path, kind: str) -> None:
    for file in (tmp_path / "plugins.toml", tmp_path / "pyproject.toml"):
        file.write_text(DEEP[kind])
    (problem, *_) = read_configuration([tmp_path / "plugins.toml"]).problems
    assert problem.reason and len(str(problem)) < 1000 + len(str(tmp_path))
    assert name_of_pack(tmp_path) == ""


def test_the_limits_do_not_depend_on_the_recursion_limit(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(f"a = {'[' * 50_000}")
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    try:
        with pytest.raises(ValueError, match=f"more than {MAX_DEPTH} levels are nested at line 1"):
            read_toml(tmp_path / "a.toml")
    finally:
        sys.setrecursionlimit(before)


def test_brackets_and_dots_in_texts_and_comments_do_not_count(tmp_path: Path) -> None:
    text = "\n".join(
        [
            "# " + "[.{" * 100,
            'a = "' + "[." * 100 + '\\"[[["',
            "b = '" + "[." * 100 + "'",
            'c = """' + "[.\n" * 100 + '\\""""""',
            "d = '''" + "{.'\n" * 100 + "'''''",
            "e = [[1.5, 2.5], [3.5]]",
            "f." * (MAX_DEPTH - 1) + "f = 1",
            "g = " + "[" * MAX_DEPTH + "]" * MAX_DEPTH,
        ]
    )
    (tmp_path / "a.toml").write_text(text)
    assert set(read_toml(tmp_path / "a.toml")) == set("abcdefg")


PIECES = ['"', "'", '"""', "'''", "\\", "#", "[", "]", "{", "}", ".", ",", "=", "\n", "a", " "]


@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
@settings(max_examples=500)
def test_whatever_begins_is_taken_so_that_no_character_is_looked_at_twice(text: str) -> None:
    left = _STRUCTURE.sub("", text)
    assert not set(left) & set("\"'#[]{}.,=\n")


def test_a_large_file_costs_steps_in_proportion(tmp_path: Path, steps_of: Steps) -> None:
    steps = []
    for count in (100, 200):
        file = tmp_path / f"{count}.toml"
        file.write_text(
            "".join(f"[integrations.{'a' * 20}{n}]\ncolour = {{a.b.c = [1, 2.5, {n}]}}\n" for n in range(count))
        )
        assert file.stat().st_size < MAX_BYTES
        steps.append(steps_of(lambda file=file: read_configuration([file])))
    assert steps[1] < 2.2 * steps[0]


def test_a_file_named_below_a_home_folder_that_is_not_there_is_only_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = user_files(None, {"MULTIGPU_PLUGINS": "~nobody-of-this-name/plugins.toml"})
    (problem,) = read_configuration([file]).problems
    assert "nobody-of-this-name" in str(problem)
