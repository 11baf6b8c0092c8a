"""Calls to a worker: only known operations run, errors come back, losses are noticed, interrupts arrive."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from multigpu.multigpu_core.cluster.connection import Connection, Patience
from multigpu.multigpu_core.cluster.in_process_engine import UNPLUGGED, InProcessEngine
from multigpu.multigpu_core.cluster.protocol import MachineLostError, OperationError

from .conftest import IMPATIENT

SECONDS = 20.0
"""Longer than anything here takes; only a fault lets it pass."""


def test_only_operations_of_the_list_are_called(engine: InProcessEngine, connection: Connection) -> None:
    for name in ("carry_out", "interrupt", "__init__", "os.system"):
        with pytest.raises(OperationError, match=f"no operation '{name}'"):
            connection.call(name)


@pytest.fixture
def operations() -> dict[str, Callable[..., Any]]:
    def fails() -> None:
        raise RuntimeError("the file is damaged")

    started, go_on = threading.Event(), threading.Event()

    def waits() -> str:
        started.set()
        assert go_on.wait(SECONDS)
        return "went on"

    def computes_without_end() -> None:
        layer = torch.nn.Identity()
        started.set()
        while True:
            layer(torch.zeros(1))

    return {
        "fails": fails,
        "waits": waits,
        "computes": computes_without_end,
        "doubled": lambda value: torch.nn.Identity()(value) * 2,
        "events": lambda: (started, go_on),
    }


@pytest.fixture
def started(operations: dict[str, Callable[..., Any]]) -> threading.Event:
    return operations["events"]()[0]  # type: ignore[no-any-return]


@pytest.fixture
def go_on(operations: dict[str, Callable[..., Any]]) -> threading.Event:
    return operations["events"]()[1]  # type: ignore[no-any-return]


def test_an_error_over_there_comes_back_with_the_machines_name(connection: Connection) -> None:
    with pytest.raises(OperationError, match="fails failed on node2: RuntimeError: the file is damaged"):
        connection.call("fails")
    assert connection.call("doubled", value=[2.5]) == [2.5, 2.5], "the worker works on"


@pytest.mark.parametrize("kind", ["unplugged", "hung"])
def test_a_call_ends_when_its_machine_is_lost(
    engine: InProcessEngine, connection: Connection, started: threading.Event, go_on: threading.Event, kind: str
) -> None:
    def lose() -> None:
        assert started.wait(SECONDS)
        getattr(engine.hosts["node2"], kind).set()

    threading.Thread(target=lose).start()
    try:
        with pytest.raises(MachineLostError) as lost:
            connection.call("waits")
    finally:
        go_on.set()
    assert lost.value.machine == "node2"
    assert lost.value.reason == (UNPLUGGED if kind == "unplugged" else "it has not answered for 0 s")
    with pytest.raises(MachineLostError):
        connection.call("doubled", value=1)


def test_a_loss_is_noticed_within_five_seconds() -> None:
    usual = Patience()
    assert usual.between_pings + usual.for_an_answer + usual.between_looks < 5


def test_an_interrupt_ends_the_operation_at_its_next_module(connection: Connection, started: threading.Event) -> None:
    with pytest.raises(InterruptedError, match="computes on node2 was interrupted"):
        connection.call("computes", started.is_set)
    assert connection.call("doubled", value=1) == 2, "the worker is free again, and the interrupt is used up"


def test_an_interrupt_that_comes_late_ends_no_later_call(engine: InProcessEngine, connection: Connection) -> None:
    connection.call("doubled", value=1)
    engine.started[-1].interrupt(1)
    assert connection.call("doubled", value=torch.ones(1)) == 2


def test_values_that_cannot_be_sent_are_refused_at_home(engine: InProcessEngine, connection: Connection) -> None:
    with pytest.raises(ValueError, match="is not sent"):
        connection.call("doubled", value=print)
    assert engine.started[-1].submitted == []


def test_closing_ends_the_worker_and_its_watch(engine: InProcessEngine) -> None:
    connection = Connection(engine.start("node2", "cpu"), IMPATIENT)
    connection.close()
    assert engine.started[-1].is_ended
    with pytest.raises(MachineLostError):
        connection.call("doubled", value=1)


def test_a_forgotten_connection_leaves_no_thread(engine: InProcessEngine) -> None:
    before = set(threading.enumerate())
    connection = Connection(engine.start("node2", "cpu"), IMPATIENT)
    (thread,) = [each for each in set(threading.enumerate()) - before if each.name == "ping node2"]
    del connection
    gc.collect()
    thread.join(SECONDS)
    assert not thread.is_alive()


def test_a_machine_that_is_not_there_starts_no_worker(engine: InProcessEngine) -> None:
    with pytest.raises(MachineLostError, match="node9 is lost: it is not connected"):
        engine.start("node9", "cpu")


def test_a_worker_says_what_it_is(connection: Connection) -> None:
    described = connection.call("describe", with_devices=True)
    assert described["versions"]["torch"] and described["device"] == "cpu"
    (cpu,) = [each for each in described["devices"] if each["name"] == "cpu"]
    assert 0 < cpu["free_bytes"] <= cpu["total_bytes"]
    assert connection.call("describe")["devices"] == []


def test_echo_answers_in_the_size_that_was_asked_for_and_no_larger_one(connection: Connection) -> None:
    assert connection.call("echo", values=torch.zeros(9), answer_bytes=5).nbytes == 5
    with pytest.raises(OperationError, match="at most"):
        connection.call("echo", answer_bytes=1 << 40)
