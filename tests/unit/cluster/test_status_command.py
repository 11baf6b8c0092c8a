"""`multigpu cluster` says what there is, and what to do where it cannot be used."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from multigpu.multigpu_core.cli.app import app
from multigpu.multigpu_core.cli.cluster import status as status_module
from multigpu.multigpu_core.cli.cluster.report import print_status
from multigpu.multigpu_core.cli.cluster.status import MachineStatus, cluster_status, status_json
from multigpu.multigpu_core.cluster import ray_process
from multigpu.multigpu_core.cluster.connection import Connection
from multigpu.multigpu_core.cluster.in_process_engine import InProcessEngine
from multigpu.multigpu_core.cluster.link import measure_link
from multigpu.multigpu_core.cluster.membership import ClusterFolder, Membership
from multigpu.multigpu_core.cluster.protocol import Machine

from .conftest import IMPATIENT

NODE3 = Machine("node3", "192.0.2.3", ())


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClusterFolder]:
    monkeypatch.setenv("MULTIGPU_CLUSTER", str(tmp_path))
    yield ClusterFolder()


def _printed(statuses: list[MachineStatus]) -> str:
    out = io.StringIO()
    print_status(Console(file=out, width=200), statuses)
    return out.getvalue()


def test_every_machine_is_asked_and_its_workers_end_again(engine: InProcessEngine) -> None:
    home, node2 = cluster_status(engine, (), IMPATIENT)
    assert (home.machine.name, node2.machine.name) == ("home", "node2") and home.is_well and node2.is_well
    assert home.link is None and node2.link is not None and node2.link.there_bytes_per_second > 0
    assert all(worker.is_ended for worker in engine.started)
    report = status_json(node2)
    assert report["devices"][0]["name"] == "node2/cpu" and report["versions"]["torch"] and report["fault"] is None
    text = _printed([home, node2])
    assert "node2/cpu" in text and "home/cpu" in text


def test_a_machine_that_was_known_and_is_not_there_is_listed(engine: InProcessEngine) -> None:
    *_, gone = cluster_status(engine, (NODE3, *engine.machines()), IMPATIENT)
    assert gone.machine == NODE3 and not gone.is_connected and "node3" in _printed([gone])


def test_a_machine_that_hangs_is_named_and_the_others_are_shown(engine: InProcessEngine) -> None:
    engine.hosts["node2"].hung.set()
    home, node2 = cluster_status(engine, (), IMPATIENT)
    assert home.is_well and not node2.is_well and "has not answered" in node2.fault


def test_what_runs_on_a_machine_is_shown(engine: InProcessEngine) -> None:
    engine.start("node2", "cpu")
    _, node2 = cluster_status(engine, (), IMPATIENT)
    assert "node2/cpu: waiting, holds no model" in _printed([node2])


def test_another_torch_over_there_is_shown_and_is_not_well(
    engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = status_module.versions_here()
    monkeypatch.setattr(status_module, "versions_here", lambda: {**here, "torch": "9.9.0"})
    _, node2 = cluster_status(engine, (), IMPATIENT)
    assert not node2.is_well
    assert f"node2: torch is {here['torch']} there and 9.9.0 at home" in _printed([node2])
    assert status_json(node2)["different_versions"] == ["torch"]


def test_a_links_speed_is_what_its_calls_take(connection: Connection) -> None:
    times = iter([0, 1, 0, 1, 0, 1, 0, 5, 0, 3, 0, 4, 0, 2, 0, 2, 0, 2])
    link = measure_link(connection, 1000, lambda: next(times))
    assert (link.round_trip_seconds, link.there_bytes_per_second, link.back_bytes_per_second) == (1, 500, 1000)


@pytest.mark.parametrize("command", [["start"], ["join", "192.0.2.1", "--token", "a" * 64], ["status"]])
def test_without_ray_one_line_says_how_to_install_it(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_process, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "platform", "linux")
    result = CliRunner().invoke(app, ["cluster", *command])
    assert result.exit_code == 2 and "pip install 'multigpu-nodes[cluster]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_another_system_than_linux_is_told_what_to_use(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    result = CliRunner().invoke(app, ["cluster", "start"])
    assert result.exit_code == 2 and "WSL2" in result.stderr


@pytest.fixture
def with_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Linux with Ray, whether or not it is there: none of these tests gets as far as starting it."""
    monkeypatch.setattr(ray_process, "find_spec", lambda name: object())
    monkeypatch.setattr(sys, "platform", "linux")


@pytest.mark.usefixtures("with_ray")
@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["status"], "This machine is in no cluster"),
        (["join"], "Name home's address"),
        (["join", "127.0.0.1"], "There is no token"),
        (["join", "127.0.0.1", "--token", "abc"], "This is no token"),
        (["join", "127.0.0.1:x", "--token", "a" * 64], "is no address"),
        (["start", "--name", "cuda", "--address", "127.0.0.1"], "cannot be a machine's name"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_way_out(command: list[str], told: str) -> None:
    result = CliRunner().invoke(app, ["cluster", *command])
    assert result.exit_code == 2 and told in result.stderr and "Traceback" not in result.output


@pytest.mark.usefixtures("with_ray")
def test_a_machine_is_in_one_cluster_at_a_time(folder: ClusterFolder) -> None:
    running = ray_process.own_process()
    folder.keep_membership(Membership("home", True, "127.0.0.1", "127.0.0.1", 46200, 46200, supervisor=running))
    result = CliRunner().invoke(app, ["cluster", "start", "--address", "127.0.0.1"])
    assert result.exit_code == 2 and "multigpu cluster stop" in result.stderr


def test_stop_where_nothing_runs_ends_nothing(folder: ClusterFolder) -> None:
    folder.keep_membership(Membership("home", True, "127.0.0.1", "127.0.0.1", 46200, 46200))
    result = CliRunner().invoke(app, ["cluster", "stop"])
    assert result.exit_code == 0 and "Nothing" in result.stdout and folder.membership() is None
