"""What a worker runs on another machine: a program of its own, like the commands, which an engine starts by name."""

from __future__ import annotations

from pathlib import Path

from multigpu.multigpu_core.cluster.files.store import ModelStore
from multigpu.multigpu_core.cluster.membership import ClusterFolder
from multigpu.multigpu_core.cluster.operations import Operations
from multigpu.multigpu_core.simulation.environment import simulate_from_environment


def looking_around(device: str) -> Operations:
    """A worker that can say what its machine is, and how fast the way to it is."""
    simulate_from_environment()  # as the machine was joined: before anybody looks for devices
    from multigpu.multigpu_core.devices import default_registry

    return Operations(device, default_registry(), {})


def running_models(device: str) -> Operations:
    """A worker that runs text encoders and VAEs with ComfyUI's code, which home has sent along."""
    simulate_from_environment()
    from multigpu.multigpu_core.comfy.machines.worker_models import WorkerModels
    from multigpu.multigpu_core.devices import default_registry

    registry = default_registry()
    store = store_of(ClusterFolder())
    models = WorkerModels(registry.torch_device(device), store)
    return Operations(device, registry, {**models.operations(), **store.operations()}, models.holds)


def store_of(folder: ClusterFolder) -> ModelStore:
    """The model files of this machine, as it was joined."""
    member = folder.membership()
    folders = member.model_folders if member is not None else ()
    limit = member.cache_bytes if member is not None else 0
    return ModelStore([Path(each) for each in folders], folder.path / "models", limit)
