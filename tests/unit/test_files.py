"""Files of ours are whole or unchanged, and no link leads a write astray."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from multigpu.multigpu_core import files
from multigpu.multigpu_core.cli.new_integration import new_integration, package_files
from multigpu.multigpu_core.files import read_bounded, write_atomically


def test_what_is_written_is_there_and_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "first\n")
    write_atomically(tmp_path / "a", b"second\n")
    assert (tmp_path / "a").read_bytes() == b"second\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    write_atomically(tmp_path / "a", "old")
    monkeypatch.setattr(files.os, call, full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_content_is_on_the_disk_before_the_name_points_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: (order.append("fsync"), fsync(descriptor))[1])
    monkeypatch.setattr(files.os, "replace", lambda a, b: (order.append("replace"), replace(a, b))[1])
    write_atomically(tmp_path / "a", "new")
    assert order[:2] == ["fsync", "replace"]


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "a").symlink_to(tmp_path / "precious")
    write_atomically(tmp_path / "a", "ours")
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "a").read_text() == "ours" and not (tmp_path / "a").is_symlink()


def test_the_temporary_file_is_never_one_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "guessed")
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".guessed.tmp").symlink_to(tmp_path / "precious")
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "a", "ours")
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_name_of_the_greatest_length_can_be_written(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("n" * 255), "x")
    assert (tmp_path / ("n" * 255)).read_text() == "x"


def test_a_new_integration_is_written_through_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(
        "multigpu.multigpu_core.cli.new_integration.write_atomically", lambda path, text: written.append(path.name)
    )
    new_integration("mine", tmp_path / "new")
    assert written == list(package_files("mine"))


def test_only_so_many_bytes_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bounded(tmp_path / "a", 5) == b"12345"
    with pytest.raises(ValueError, match="more than 4 bytes"):
        read_bounded(tmp_path / "a", 4)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        read_bounded(tmp_path / "pipe", 100)
