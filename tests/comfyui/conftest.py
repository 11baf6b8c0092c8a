"""Fixtures for tests inside the real ComfyUI."""

from __future__ import annotations

import gc
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from multigpu.multigpu_core.provisioning.release import comfyui_folder
from multigpu.multigpu_core.provisioning.server import ComfyUIServer, install_custom_node

from .support.demo_server import free_everything, prepare
from .support.in_process import ComfyUI
from .support.packs_at_hand import stand_in
from .support.tiny_files import shrink_encoders, write_tiny_files


@pytest.fixture(scope="session")
def comfyui_path() -> Path:
    """The folder of a real ComfyUI: ``COMFYUI_PATH``, or the pinned release, fetched once."""
    return comfyui_folder()


@pytest.fixture(scope="session")
def started_comfyui(simulated_comfyui: ComfyUI) -> ComfyUI:
    """The ComfyUI of this process with model files; tests take `comfyui`, which leaves no models behind."""
    shrink_encoders(simulated_comfyui.models.parent / "smaller encoders")
    write_tiny_files(simulated_comfyui.models)
    gc.collect()
    gc.freeze()  # the collections after each test need not go through all of ComfyUI again
    return simulated_comfyui


@pytest.fixture(autouse=True)
def log_level_as_it_was() -> Iterator[None]:
    """Commands and libraries that run in this process set up logging for themselves; other tests read our log."""
    logger = logging.getLogger("multigpu")
    before = logger.level, logger.propagate, logger.disabled, logging.root.manager.disable
    yield
    logger.setLevel(before[0])
    logger.propagate, logger.disabled, logging.root.manager.disable = before[1:]


@pytest.fixture
def comfyui(started_comfyui: ComfyUI) -> Iterator[ComfyUI]:
    """A ComfyUI in this process: three empty simulated accelerators, our nodes, and a tiny model file of every kind."""
    with torch.inference_mode():  # as ComfyUI's executor runs its nodes
        yield started_comfyui
    started_comfyui.reset()


@pytest.fixture(scope="session")
def demo_server(
    comfyui_path: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyUIServer]:
    """A ComfyUI server with our folder, the demo's models, two packs, and simulated cards of 4 and 2 GB.

    One pack has nodes, and the other our example of a strategy.
    """
    base = tmp_path_factory.mktemp("base")
    prepare(base, repository)
    install_custom_node(base, stand_in("gguf"), "zz-loaded-after-us")
    strategy = base / "custom_nodes" / "strategy"
    strategy.mkdir()
    (strategy / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}")
    shutil.copy(repository / "examples" / "extensions" / "example_strategy.py", strategy / "multigpu_plugin.py")
    environment = {"MULTIGPU_SIMULATE": "4gb,2gb"}
    with ComfyUIServer(comfyui_path, base, environment=environment) as running:
        yield running


@pytest.fixture(scope="module")
def server(demo_server: ComfyUIServer) -> ComfyUIServer:
    """The server that modules share, without a loaded model; a module that needs another one has its own `server`."""
    free_everything(demo_server)
    return demo_server
