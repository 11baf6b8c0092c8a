"""Fixtures for tests inside the real ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from multigpu.multigpu_core.testing.comfyui_release import comfyui_folder
from multigpu.multigpu_core.testing.errors import SimulationUnavailableError

from .inprocess import ComfyUI, start_comfyui


@pytest.fixture(scope="session")
def comfyui_path() -> Path:
    """The folder of a real ComfyUI: ``COMFYUI_PATH``, or the pinned release, fetched once."""
    return comfyui_folder()


@pytest.fixture(scope="session")
def started_comfyui(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> ComfyUI:
    """The ComfyUI of this process; tests take `comfyui`, which leaves no models behind."""
    try:
        return start_comfyui(comfyui_path, tmp_path_factory.mktemp("comfyui"))
    except SimulationUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def comfyui(started_comfyui: ComfyUI) -> Iterator[ComfyUI]:
    """A ComfyUI in this process with three empty simulated accelerators and our nodes."""
    started_comfyui.reset()
    yield started_comfyui
    started_comfyui.reset()
