"""For the tests of models on other machines: a made-up node2, whose accelerators are this process's npu:1 and npu:2."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from multigpu.multigpu_core.cluster.connection import Patience
from multigpu.multigpu_core.cluster.files.store import ModelStore
from multigpu.multigpu_core.cluster.in_process_engine import InProcessEngine, InProcessWorker
from multigpu.multigpu_core.cluster.operations import Operations
from multigpu.multigpu_core.cluster.protocol import Machine, RemoteDevice
from multigpu.multigpu_core.comfy.machines.machines import Machines
from multigpu.multigpu_core.comfy.machines.worker_models import WorkerModels

from ..support.in_process import ComfyUI

NODE2 = Machine("node2", "192.0.2.2", (RemoteDevice("npu:1", 2 << 30), RemoteDevice("npu:2", 2 << 30)))
IMPATIENT = Patience(between_pings=0.01, for_an_answer=0.05, between_looks=0.005, to_start=5.0)


@dataclass
class SecondMachine:
    """node2, as home sees it, and from inside."""

    comfyui: ComfyUI
    engine: InProcessEngine
    machines: Machines
    models: list[WorkerModels]
    folder: Path
    """A model folder of its own; empty."""
    cache: Path

    def run(self, class_type: str, **inputs: Any) -> tuple[Any, ...]:
        """Run one node."""
        return self.comfyui.run(class_type, **inputs)

    @property
    def worker(self) -> InProcessWorker:
        return self.engine.started[-1]

    def submitted(self, operation: str) -> int:
        """How often it was asked for."""
        return sum(worker.submitted.count(operation) for worker in self.engine.started)


@pytest.fixture
def node2(comfyui: ComfyUI, tmp_path: Path) -> Iterator[SecondMachine]:
    registry = comfyui.framework.context.host.registry
    models: list[WorkerModels] = []
    folder, cache = tmp_path / "models of node2", tmp_path / "cache of node2"
    folder.mkdir()

    def make_operations(device: str) -> Operations:
        store = ModelStore([folder], cache, 1 << 30)
        models.append(WorkerModels(registry.torch_device(device), store))
        operations = {**models[-1].operations(), **store.operations()}
        return Operations(device, registry, operations, models[-1].holds)

    engine = InProcessEngine((NODE2,), make_operations)

    class Known:
        def machines(self) -> tuple[Machine, ...]:
            return (NODE2,)

    machines = Machines(Known(), lambda: engine, IMPATIENT)
    before = offered(comfyui, machines)
    yield SecondMachine(comfyui, engine, machines, models, folder, cache)
    machines.let_go()
    engine.disconnect()
    comfyui.nodes.NODE_CLASS_MAPPINGS.update(before)


def offered(comfyui: ComfyUI, machines: Machines) -> dict[str, type]:
    """Make the nodes of core's loaders again, for these machines. Returns those that were there."""
    hookspecs = importlib.import_module("multigpu.hookspecs")
    plugins = importlib.import_module("multigpu.multigpu_core.plugins")
    registration = importlib.import_module("multigpu.multigpu_core.comfy.nodes.registration")
    node = importlib.import_module("multigpu.multigpu_core.comfy.machines.node")
    manager = plugins.PluginManager(hookspecs)
    manager.register(importlib.import_module("multigpu.integrations.comfy_core"), "comfy_core")
    mappings = comfyui.nodes.NODE_CLASS_MAPPINGS
    before = {name: mappings.pop(name) for name in node.REMOTE_LOADERS if name in mappings}
    made = registration.NodeRegistration(manager, comfyui.framework.context, node.node_bases(machines))
    made.register()
    mappings.update({name: made.classes[name] for name in before})
    return before
