"""What a machine keeps of its cluster, and what it announces to the others."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from multigpu.multigpu_core.cluster.announced import announced, checked_name, read_announcement
from multigpu.multigpu_core.cluster.handshake import differences
from multigpu.multigpu_core.cluster.membership import ClusterFolder, Membership, OwnProcess
from multigpu.multigpu_core.cluster.protocol import ClusterError, Machine, RemoteDevice

CARD = RemoteDevice("cuda:0", 24 << 30)
HOME = Machine("home", "192.0.2.1", (CARD,), is_home=True)
NODE2 = Machine("node2", "192.0.2.2", (CARD, RemoteDevice("cuda:1", 8 << 30)))


@pytest.fixture
def folder(tmp_path: Path) -> ClusterFolder:
    return ClusterFolder(tmp_path / "cluster")


def test_a_token_is_made_once_and_only_its_owner_can_read_it(folder: ClusterFolder) -> None:
    token = folder.make_token()
    assert len(token) == 64 and folder.make_token() == token == folder.token()
    assert stat.S_IMODE(folder.token_file.stat().st_mode) == 0o600
    assert folder.token_is_private()


def test_a_given_token_replaces_one_that_others_could_read(folder: ClusterFolder) -> None:
    folder.make_token()
    folder.token_file.chmod(0o644)
    assert not folder.token_is_private()
    folder.keep_token("a" * 64 + "\n")
    assert folder.token() == "a" * 64 and folder.token_is_private()


@pytest.mark.parametrize("token", ["", "short", "with a space" * 6, "ü" * 64])
def test_what_is_no_token_is_refused_without_repeating_it(folder: ClusterFolder, token: str) -> None:
    with pytest.raises(ClusterError, match="This is no token") as refused:
        folder.keep_token(token)
    assert not token or token not in str(refused.value)


def test_a_membership_survives(folder: ClusterFolder) -> None:
    assert folder.membership() is None
    member = Membership("node2", False, "192.0.2.2", "192.0.2.1", 46200, 46300, ("models",), 5, OwnProcess(7, 1.5))
    folder.keep_membership(member)
    assert folder.membership() == member


def test_a_broken_file_is_no_membership(folder: ClusterFolder) -> None:
    folder.make_token()
    for content in ("", "[]", "{", '{"name": "home"}'):
        (folder.path / "member.json").write_text(content)
        (folder.path / "machines.json").write_text(content)
        assert folder.membership() is None and folder.machines() == ()


def test_machines_stay_known_when_they_leave(folder: ClusterFolder) -> None:
    folder.keep_machines((HOME, NODE2))
    assert folder.machines() == (NODE2,)
    folder.keep_machines((HOME, Machine("abel", "192.0.2.3", ())))
    assert [machine.name for machine in folder.machines()] == ["abel", "node2"]
    folder.forget()
    assert folder.machines() == ()


def test_a_machine_reads_what_another_announces() -> None:
    for machine in (HOME, NODE2):
        resources = announced(machine.name, machine.devices, is_home=machine.is_home)
        assert read_announcement(machine.address, {**resources, "memory": 5.0}) == machine


@pytest.mark.parametrize("resources", [{}, {"CPU": 4.0}, {"multigpu/a": 1.0, "multigpu/b": 1.0}, {"multigpu/ü": 1.0}])
def test_a_node_of_somebody_else_is_no_machine(resources: dict[str, float]) -> None:
    assert read_announcement("192.0.2.9", resources) is None


@pytest.mark.parametrize("name", ["", "cuda", "CPU", "2nd", "a/b", "a b", "a" * 32])
def test_a_name_that_would_read_like_something_else_is_refused(name: str) -> None:
    with pytest.raises(ClusterError, match="cannot be a machine's name"):
        checked_name(name)


def test_names_are_one_whatever_their_case() -> None:
    assert checked_name("Node2") == "node2"


def test_versions_that_decide_are_told_from_others() -> None:
    here = {"multigpu": "0.1.0", "python": "3.11.7", "torch": "2.11.0+cu128", "numpy": "2.1.0", "safetensors": "0.5.0"}
    alike = {**here, "torch": "2.11.0"}
    assert list(differences(here, alike)) == []
    other = {**here, "python": "3.11.9", "torch": "2.11.1", "numpy": "1.26.0", "safetensors": ""}
    found = {each.package: each.is_deciding for each in differences(here, other)}
    assert found == {"python": False, "torch": True, "numpy": True, "safetensors": True}
    assert str(next(differences(here, other))) == "python is 3.11.9 there and 3.11.7 at home"
