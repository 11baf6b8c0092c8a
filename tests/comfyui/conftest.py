"""Fixtures for tests inside the real ComfyUI."""

from __future__ import annotations

from pathlib import Path

import pytest

from multigpu.multigpu_core.testing.comfyui_release import comfyui_folder


@pytest.fixture(scope="session")
def comfyui_path() -> Path:
    """The folder of a real ComfyUI: ``COMFYUI_PATH``, or the pinned release, fetched once."""
    return comfyui_folder()
