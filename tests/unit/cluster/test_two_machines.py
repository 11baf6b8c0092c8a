"""Two machines on Ray, both on this one: the commands start them, and each has simulated accelerators of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest
import torch

from multigpu.multigpu_core.cluster.connecting import connect
from multigpu.multigpu_core.cluster.connection import Connection
from multigpu.multigpu_core.cluster.protocol import Engine, MachineLostError
from multigpu.multigpu_core.cluster.worker_code import WorkerCode

from ...cluster_commands import NEEDS_RAY, SECONDS, CommandRunning, guest_running, home_running, run_command, wait_until

pytestmark = NEEDS_RAY
CODE = WorkerCode("multigpu.multigpu_core.cli.cluster.worker_process:looking_around")
TOKEN_OF_NOBODY = "0" * 64


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandRunning]:
    with home_running(tmp_path_factory.mktemp("cluster") / "home", 46600) as home:
        yield home


@pytest.fixture(scope="module")
def node2(home: CommandRunning) -> Iterator[CommandRunning]:
    with guest_running(home, home.folder.path.parent / "node2") as node2:
        yield node2


@pytest.fixture(scope="module")
def engine(home: CommandRunning, node2: CommandRunning) -> Iterator[Engine]:
    member = home.folder.membership()
    assert member is not None
    engine = connect(member, home.folder, CODE)
    yield engine
    engine.disconnect()


@pytest.fixture(scope="module")
def connection(engine: Engine) -> Iterator[Connection]:
    connection = Connection(engine.start("node2", "npu:1"))
    yield connection
    connection.close()


def test_home_knows_the_machines_and_their_devices(engine: Engine, home: CommandRunning) -> None:
    first, second = engine.machines()
    assert first.is_home and (first.name, second.name) == ("home", "node2")
    sizes = {each.name: each.total_bytes for each in second.devices}
    assert sizes.pop("cpu") > 0 and sizes == {"npu:0": 4 << 30, "npu:1": 2 << 30}
    assert home.folder.machines() == (second,), "for ComfyUI's menus, without Ray"


def test_a_worker_runs_on_the_machine_and_device_that_were_asked_for(connection: Connection) -> None:
    described = connection.call("describe", with_devices=True)
    assert described["device"] == "npu:1"
    assert [each["name"] for each in described["devices"]] == ["cpu", "npu:0", "npu:1"]


def test_tensors_go_there_and_come_back(connection: Connection) -> None:
    assert connection.call("echo", values=[torch.rand(1000, 1000)], answer_bytes=3_000_000).nbytes == 3_000_000


def test_status_tells_other_programs_all_of_it(engine: Engine, home: CommandRunning, connection: Connection) -> None:
    connection.call("echo")
    environment = {**os.environ, "MULTIGPU_CLUSTER": str(home.folder.path)}
    command = [sys.executable, "-m", "multigpu", "cluster", "status", "--json"]
    answer = subprocess.run(command, capture_output=True, env=environment, timeout=SECONDS, check=True)
    _, node2 = json.loads(answer.stdout)["machines"]
    assert node2["fault"] is None and node2["different_versions"] == []
    assert [each["name"] for each in node2["devices"]] == ["node2/cpu", "node2/npu:0", "node2/npu:1"]
    assert node2["there_bytes_per_second"] > 0 and node2["round_trip_seconds"] > 0
    assert {"device": "npu:1", "operation": "", "holds": []} in node2["running"]
    assert home.folder.token() not in answer.stdout.decode() + answer.stderr.decode()


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGKILL, id="dies", marks=pytest.mark.long), pytest.param(signal.SIGSTOP, id="hangs")],
)
def test_a_worker_that_is_gone_is_named_within_five_seconds(engine: Engine, number: int) -> None:
    connection = Connection(engine.start("node2", "npu:0"))
    before = set(_workers())
    connection.call("echo")
    (worker,) = set(_workers()) - before
    begun = time.monotonic()
    worker.send_signal(number)
    try:
        with pytest.raises(MachineLostError) as lost:
            while True:
                connection.call("echo")
        assert lost.value.machine == "node2" and lost.value.reason
        assert time.monotonic() - begun < 5
    finally:
        with suppress(psutil.NoSuchProcess):
            worker.kill()


def _workers() -> Iterator[psutil.Process]:
    """The processes of actors."""
    for process in psutil.process_iter(["name", "cmdline"]):
        if "_Actor" in " ".join(process.info["cmdline"] or ()):
            yield process


def test_the_token_is_in_no_log_and_no_command_line(home: CommandRunning, node2: CommandRunning) -> None:
    token = home.folder.token()
    for command in (home, node2):
        assert token not in (command.folder.path / "ray.log").read_text()
    for process in psutil.process_iter(["cmdline"]):
        if process.pid != node2.process.pid:  # where its user typed it
            assert token not in " ".join(process.info["cmdline"] or ())


DRIVER = """
import sys, threading
from multigpu.multigpu_core.cluster.connecting import connect
from multigpu.multigpu_core.cluster.connection import Connection
from multigpu.multigpu_core.cluster.membership import ClusterFolder
from multigpu.multigpu_core.cluster.worker_code import WorkerCode
folder = ClusterFolder()
engine = connect(folder.membership(), folder, WorkerCode(sys.argv[1]))
connection = Connection(engine.start("node2", "npu:0"))
connection.call("echo")
print("connected", flush=True)
threading.Event().wait()
"""


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
def test_a_worker_ends_within_thirty_seconds_when_home_is_gone(
    home: CommandRunning, node2: CommandRunning, number: int
) -> None:
    environment = {**os.environ, "MULTIGPU_CLUSTER": str(home.folder.path)}
    before = set(_workers())
    command = [sys.executable, "-c", DRIVER, CODE.entry]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as driver:
        assert driver.stdout is not None and driver.stdout.readline() == b"connected\n"
        (worker,) = set(_workers()) - before
        driver.send_signal(number)
        try:
            worker.wait(30)
        finally:
            driver.kill()


@pytest.mark.long
def test_a_wrong_token_is_refused(home: CommandRunning) -> None:
    arguments = ("join", "127.0.0.2:46600", "--token", TOKEN_OF_NOBODY, "--name", "node3")
    stranger = run_command(
        home.folder.path.parent / "node3", "2gb", *arguments, "--address", "127.0.0.4", "--port", "46800"
    )
    assert stranger.process.wait(SECONDS) == 1
    assert "home refuses the token" in stranger.printed


@pytest.mark.long
def test_a_machine_whose_ray_dies_joins_again_by_itself(
    home: CommandRunning, node2: CommandRunning, engine: Engine
) -> None:
    member = node2.folder.membership()
    assert member is not None
    (raylet,) = [each.pid for each in member.processes if psutil.Process(each.pid).name() == "raylet"]
    os.kill(raylet, signal.SIGKILL)
    home.wait_for("node2 is gone")
    wait_until(lambda: home.printed.count("node2 at 127.0.0.3 has joined") == 2)
    again = Connection(engine.start("node2", "npu:0"))
    assert again.call("describe")["device"] == "npu:0"
    again.close()
