"""A model file is found on the other machine, or sent once, in pieces, into a cache of bounded size."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from multigpu.multigpu_core.cluster.connection import Connection
from multigpu.multigpu_core.cluster.files import sending
from multigpu.multigpu_core.cluster.files.identity import FileIdentity, Identities
from multigpu.multigpu_core.cluster.files.sending import send_if_missing
from multigpu.multigpu_core.cluster.files.store import ModelStore
from multigpu.multigpu_core.cluster.in_process_engine import InProcessEngine
from multigpu.multigpu_core.cluster.protocol import OperationError

pytest.importorskip("blake3", reason="blake3 is not installed: pip install -e '.[dev]'")
SIZE = 1000


@dataclass
class Disk:
    """A file at home, and the folders of the other machine."""

    path: Path
    identity: FileIdentity
    store: ModelStore
    folder: Path
    cache: Path


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    monkeypatch.setattr(sending, "PIECE_BYTES", 300)
    path = tmp_path / "home" / "vae.safetensors"
    folder, cache = tmp_path / "models", tmp_path / "cache"
    path.parent.mkdir()
    path.write_bytes(os.urandom(SIZE))
    folder.mkdir()
    return Disk(path, Identities().of(path), ModelStore([folder], cache, 2500), folder, cache)


@pytest.fixture
def operations(disk: Disk) -> dict[str, Callable[..., Any]]:
    return disk.store.operations()


def _send(disk: Disk, connection: Connection, **more: Any) -> int:
    return send_if_missing(connection, disk.path, disk.identity, **more)


def test_a_file_that_is_missing_is_sent_once_with_progress(disk: Disk, connection: Connection) -> None:
    seen: list[tuple[int, int]] = []
    assert _send(disk, connection, progress=lambda done, size: seen.append((done, size))) == SIZE
    assert seen == [(300, SIZE), (600, SIZE), (900, SIZE), (SIZE, SIZE)]
    found = disk.store.find(disk.identity)
    assert found is not None and found.read_bytes() == disk.path.read_bytes() and found.suffix == ".safetensors"
    assert _send(disk, connection) == 0


def test_a_file_that_is_in_a_model_folder_is_not_sent(disk: Disk, connection: Connection) -> None:
    below = disk.folder / "vae" / "mine" / disk.path.name
    below.parent.mkdir(parents=True)
    below.write_bytes(disk.path.read_bytes())
    assert _send(disk, connection) == 0 and disk.store.find(disk.identity) == below


def test_a_file_of_the_same_name_and_size_with_another_content_is_not_taken_for_it(
    disk: Disk, connection: Connection
) -> None:
    (disk.folder / disk.path.name).write_bytes(os.urandom(SIZE))
    assert _send(disk, connection) == SIZE
    found = disk.store.find(disk.identity)
    assert found is not None and found.parent == disk.cache


def test_a_transfer_that_was_cut_off_goes_on_where_it_ended(
    disk: Disk, connection: Connection, engine: InProcessEngine
) -> None:
    with pytest.raises(KeyboardInterrupt):
        _send(disk, connection, progress=_stop_after(2))
    assert disk.store.look(**disk.identity.values) == 600
    assert _send(disk, connection) == 400
    found = disk.store.find(disk.identity)
    assert found is not None and found.read_bytes() == disk.path.read_bytes()


def _stop_after(pieces: int) -> Callable[[int, int], None]:
    def progress(done: int, size: int) -> None:
        if done == 300 * pieces:
            raise KeyboardInterrupt

    return progress


def test_a_file_that_changes_while_it_is_sent_is_refused_and_sent_anew(disk: Disk, connection: Connection) -> None:
    content = disk.path.read_bytes()
    disk.path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(OperationError, match="damaged on its way, or changed while it was sent"):
        _send(disk, connection)
    disk.path.write_bytes(content)
    assert _send(disk, connection) == SIZE


def test_the_file_that_was_used_longest_ago_gives_way(disk: Disk, connection: Connection) -> None:
    kept: list[Path] = []
    for number in range(2):
        disk.path.write_bytes(os.urandom(SIZE))
        disk.identity = Identities().of(disk.path)
        _send(disk, connection)
        found = disk.store.find(disk.identity)
        assert found is not None
        os.utime(found, (number, number))
        kept.append(found)
    os.utime(kept[0])  # it was used again
    disk.path.write_bytes(os.urandom(SIZE))
    disk.identity = Identities().of(disk.path)
    _send(disk, connection)
    assert kept[0].is_file() and not kept[1].exists()
    assert sum(path.stat().st_size for path in disk.cache.iterdir()) <= 2500


def test_a_file_that_is_larger_than_the_cache_is_refused_with_the_way_out(disk: Disk, connection: Connection) -> None:
    disk.path.write_bytes(os.urandom(2501))
    disk.identity = Identities().of(disk.path)
    with pytest.raises(OperationError, match="--models FOLDER, or join with a larger --cache-gb"):
        _send(disk, connection)
    assert list(disk.cache.iterdir()) == []


FORGED = {
    "a name with folders": {"name": "../../.ssh/authorized_keys"},
    "no name": {"name": ".."},
    "a digest with folders": {"blake3": "../" * 21 + "a"},
    "a size below zero": {"size_bytes": -1},
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED)
def test_nothing_is_written_outside_of_the_cache(disk: Disk, connection: Connection, change: dict[str, Any]) -> None:
    values = {**disk.identity.values, **change}
    with pytest.raises(OperationError, match="is no model file"):
        connection.call("file.write", offset=0, piece=torch.zeros(10, dtype=torch.uint8), **values)
    assert not disk.cache.exists()


@pytest.mark.parametrize(("offset", "size"), [(300, 10), (0, 0), (0, SIZE + 1), (-5, 10)])
def test_a_piece_that_does_not_follow_is_refused(disk: Disk, connection: Connection, offset: int, size: int) -> None:
    piece = torch.zeros(size, dtype=torch.uint8)
    with pytest.raises(OperationError, match=r"is not taken|are here"):
        connection.call("file.write", offset=offset, piece=piece, **disk.identity.values)


def test_a_file_is_read_again_only_when_it_has_changed(disk: Disk) -> None:
    identities = Identities()
    first = identities.of(disk.path)
    disk.path.write_bytes(os.urandom(SIZE + 1))
    assert identities.of(disk.path) != first and identities.of(disk.path).size_bytes == SIZE + 1
