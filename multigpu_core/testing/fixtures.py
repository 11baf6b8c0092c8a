"""Fixtures for tests on simulated accelerators: `pytest_plugins = ["multigpu.multigpu_core.testing.fixtures"]`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .errors import SimulationUnavailableError
from .machine import SimulatedMachine, simulated


@pytest.fixture
def simulated_machine() -> Iterator[SimulatedMachine]:
    """Two empty simulated accelerators, npu:0 with 2 GB and npu:1 with 1 GB, and an empty log of copies.

    A test that wants others calls `configure` on it. Afterwards the process has the devices that it had before.
    """
    try:
        with simulated() as machine:
            yield machine
    except SimulationUnavailableError as error:
        pytest.skip(str(error))
