"""Fixtures for tests on simulated accelerators: `pytest_plugins = ["multigpu.testing"]`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from multigpu.multigpu_core.provisioning.release import comfyui_folder
from multigpu.multigpu_core.simulation.errors import SimulationUnavailableError

if TYPE_CHECKING:
    from multigpu.multigpu_core.provisioning.in_process import ComfyUI
    from multigpu.multigpu_core.simulation.machine import SimulatedMachine


@pytest.fixture
def simulated_machine() -> Iterator[SimulatedMachine]:
    """Two empty simulated accelerators, npu:0 with 2 GB and npu:1 with 1 GB, and an empty log of copies.

    A test that wants others calls `configure` on it. Afterwards the process has the devices that it had before.
    """
    from multigpu.multigpu_core.simulation.machine import (
        simulated,  # torch is imported where it is needed, and not by who only checks a plugin
    )

    try:
        with simulated() as machine:
            yield machine
    except SimulationUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def simulated_comfyui(tmp_path_factory: pytest.TempPathFactory) -> ComfyUI:
    """A real ComfyUI in this process with three simulated accelerators, and our framework started in it.

    It is the one that ``COMFYUI_PATH`` names, or the pinned release, fetched once.
    """
    from multigpu.multigpu_core.provisioning.in_process import start_comfyui

    try:
        return start_comfyui(comfyui_folder(), tmp_path_factory.mktemp("comfyui"))
    except SimulationUnavailableError as error:
        pytest.skip(str(error))
