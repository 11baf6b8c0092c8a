"""For the tests of the cluster: made-up machines on an engine of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from multigpu.multigpu_core.cluster.connection import Connection, Patience
from multigpu.multigpu_core.cluster.in_process_engine import InProcessEngine
from multigpu.multigpu_core.cluster.operations import Operations
from multigpu.multigpu_core.cluster.protocol import Machine, RemoteDevice
from multigpu.multigpu_core.devices import default_registry

IMPATIENT = Patience(between_pings=0.01, for_an_answer=0.05, between_looks=0.005, to_start=5.0)
HOME = Machine("home", "192.0.2.1", (), is_home=True)
NODE2 = Machine("node2", "192.0.2.2", (RemoteDevice("cpu", 1 << 30),))
Connect = Callable[..., Connection]


@pytest.fixture
def operations() -> dict[str, Callable[..., Any]]:
    """What workers can do beside their own operations: tests add theirs."""
    return {}


@pytest.fixture
def engine(operations: Mapping[str, Callable[..., Any]]) -> Iterator[InProcessEngine]:
    registry = default_registry()
    engine = InProcessEngine((HOME, NODE2), lambda device: Operations(device, registry, operations))
    yield engine
    engine.disconnect()


@pytest.fixture
def connection(engine: InProcessEngine) -> Iterator[Connection]:
    connection = Connection(engine.start("node2", "cpu"), IMPATIENT)
    yield connection
    connection.close()
