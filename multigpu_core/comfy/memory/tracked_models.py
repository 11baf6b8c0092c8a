"""The registry of the models that our nodes loaded: facts about each, which stay, and how they are unloaded.

a node loads     TrackedModels.add ──▶ one TrackedModel per model, held by weak reference: it ends with the model
keep_loaded      TrackedModels.retained holds the node's outputs, and with them their models (retained_outputs.py)
memory is wanted TrackedModels asks the unload policy of plugins which models stay, and unloads the others
"""

from __future__ import annotations

import itertools
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
import torch
from torch import nn

from multigpu.multigpu_core.comfy.host.compatibility import model_management as mm
from multigpu.multigpu_core.comfy.host.compatibility import model_patcher
from multigpu.multigpu_core.comfy.host.loader_outputs import ALL_BYTES, patcher_of, unload_model
from multigpu.multigpu_core.comfy.host.scope import Devices
from multigpu.multigpu_core.contract.unloading import LoadedModelInfo, UnloadReason
from multigpu.multigpu_core.devices import DeviceRegistry

from .retained_outputs import NodeKey, RetainedOutputs

if TYPE_CHECKING:
    from multigpu.multigpu_core.comfy.split.placement import ModelPlacement
    from multigpu.multigpu_core.execution import Residency

log = structlog.get_logger("multigpu")

UnloadPolicy = Callable[[list[LoadedModelInfo], UnloadReason, int], "set[int]"]
"""From models, the reason to unload them and the bytes that are wanted: the keys of the models that stay."""


@dataclass(frozen=True)
class TrackedModel:
    """One model that our nodes loaded. Without a placement it is whole on its device."""

    name: str
    devices: Devices
    keep_loaded: bool = False
    placement: weakref.ref[ModelPlacement] | None = None
    """Weak, because the placement holds the model."""
    node: NodeKey = ("", "")
    """The node that loaded it."""
    files: tuple[str, ...] = ()
    """The model files that the node names."""
    key: int = 0
    """Given by `TrackedModels`, for as long as the process lives."""

    def residency(self) -> Residency | None:
        """What the model occupies if it is split and loaded."""
        placement = self.placement() if self.placement is not None else None
        return placement.distribution.residency() if placement is not None else None


class UnknownModelError(KeyError):
    """No model has this key, or it is gone."""


@dataclass(frozen=True)
class _Entry:
    model: weakref.ref[Any]
    tracked: TrackedModel


class TrackedModels:
    """All models of our nodes, split or whole, until nobody uses them any more.

    What loads or unloads belongs to the prompt worker. `add`, `of`, `devices_of`, `computes_on`, `residencies` and
    `set_keep` may be called by any thread.
    """

    def __init__(self, policy: UnloadPolicy, registry: DeviceRegistry, retained: RetainedOutputs | None = None) -> None:
        self.retained = retained or RetainedOutputs()
        self._policy = policy
        self._registry = registry
        self._entries: dict[int, _Entry] = {}
        """By the id of the model. Entries are replaced as a whole, so that reading them needs no lock."""
        self._changing = threading.Lock()
        self._keys = itertools.count(1)

    def __len__(self) -> int:
        """How many models are tracked: those that still live."""
        return len(self._entries)

    def add(self, value: Any, tracked: TrackedModel) -> None:
        """Track the models that a loader's output is or holds; what was known of them before is replaced."""
        for model in _models_in(value):
            forget = partial(self._forget, id(model))  # takes no lock: it may be called in the middle of anything
            with self._changing:
                reference = weakref.ref(model, forget)
                self._entries[id(model)] = _Entry(reference, replace(tracked, key=next(self._keys)))

    def of(self, loaded: Any) -> TrackedModel | None:
        """What is known of one of ComfyUI's loaded models; None where none of our nodes loaded it."""
        patcher = loaded.model
        return self._of_model(patcher.model) if patcher is not None else None

    def devices_of(self, value: Any) -> Devices | None:
        """The devices of a model that arrives at a node; None where none of our nodes loaded it.

        Other nodes may have moved a patcher since: it says itself where it computes.
        """
        tracked = next(filter(None, map(self._of_model, _models_in(value))), None)
        patcher = patcher_of(value)
        if tracked is None or patcher is None:
            return tracked.devices if tracked is not None else None
        return replace(tracked.devices, compute=patcher.load_device)

    def computes_on(self, device: torch.device) -> bool:
        """Whether one of our nodes loaded a model for this device that still lives."""
        return any(entry.tracked.devices.compute == device for entry in list(self._entries.values()))

    def residencies(self) -> Iterator[tuple[TrackedModel, Residency]]:
        """The split models that are loaded now."""
        for entry in list(self._entries.values()):
            if residency := entry.tracked.residency():
                yield entry.tracked, residency

    def set_keep(self, key: int, keep_loaded: bool) -> None:
        """Change whether a model is to stay.

        Raises:
            UnknownModelError: no model has this key (any more).
        """
        with self._changing:
            model, entry = self._by_key(key)
            self._entries[id(model)] = replace(entry, tracked=replace(entry.tracked, keep_loaded=keep_loaded))

    @torch.inference_mode()  # as the nodes that load: see unload_all
    def unload(self, key: int) -> None:
        """Unload one model from all its devices, whatever its node says.

        Raises:
            UnknownModelError: no model has this key (any more).
        """
        model, _ = self._by_key(key)
        for loaded in list(mm.current_loaded_models):
            if loaded.model is not None and loaded.model.model is model:
                unload_model(loaded.model)

    def make_room(self, size_bytes: int, device: str, for_model: nn.Module) -> None:
        """Unload models from a donor until `size_bytes` are free there, or none is left but `for_model`.

        ComfyUI frees what computes there; it does not know of split models that only store weights there, so these
        are unloaded here, the longest unused first. What the policy keeps stays.
        """
        if device == "cpu" or size_bytes <= self._registry.free_bytes(device):
            return
        kept = self._kept(UnloadReason.MEMORY_PRESSURE, size_bytes)
        mm.free_memory(size_bytes, self._registry.torch_device(device), keep_loaded=kept)
        for loaded in reversed(list(mm.current_loaded_models)):
            if size_bytes <= self._registry.free_bytes(device):
                return
            if loaded.model is None or loaded.model.model is for_model or loaded in kept:
                continue
            if self._stores_on(loaded, device):
                unload_model(loaded.model)

    @torch.inference_mode()
    def unload_all(self, core_unload_all: Callable[[], None]) -> None:
        """ComfyUI's `unload_all_models`, except for what the policy keeps; ComfyUI's own where nothing is kept.

        Between prompts torch is not in inference mode, in which nodes load models. A weight that is made in it and gets
        other data outside has no version counter: torch then refuses to detach it, and the next load fails.

        ComfyUI also calls it while it handles an out-of-memory error: then nothing is kept.
        """
        is_out_of_memory = mm.is_oom(sys.exc_info()[1])
        if is_out_of_memory:
            self.retained.release_all()
        kept = [] if is_out_of_memory else self._kept(UnloadReason.USER_FREED)
        if kept:
            _free_devices({loaded.device for loaded in mm.current_loaded_models}, kept)
            names = _names(kept)
            log.info("models_kept", message=f"Unloaded all models except {', '.join(names)} (kept)", models=names)
            return
        core_unload_all()
        # ComfyUI before 0.20 has unloaded its own device only.
        others = [loaded for loaded in mm.current_loaded_models if self.of(loaded) is None]
        _free_devices({loaded.device for loaded in mm.current_loaded_models if loaded not in others}, others)

    def eject(self, devices: Iterable[torch.device]) -> None:
        """Unload every model that the policy does not keep from these devices."""
        devices = set(devices)
        kept = self._kept(UnloadReason.EJECT)
        leaving = [each for each in mm.current_loaded_models if each.device in devices and each not in kept]
        names, places = _names(leaving), [str(device) for device in devices]
        _free_devices(devices, kept)
        if names:
            message = f"Unloaded {', '.join(names)} from {', '.join(places)} to free memory"
            log.info("models_ejected", message=message, models=names, devices=places)

    def _of_model(self, model: Any) -> TrackedModel | None:
        entry = self._entries.get(id(model))
        return entry.tracked if entry is not None and entry.model() is model else None

    def _by_key(self, key: int) -> tuple[Any, _Entry]:
        for entry in list(self._entries.values()):
            if entry.tracked.key == key and (model := entry.model()) is not None:
                return model, entry
        raise UnknownModelError(key)

    def _forget(self, model_id: int, reference: weakref.ref[Any]) -> None:
        self._entries.pop(model_id, None)

    def _kept(self, reason: UnloadReason, bytes_wanted: int = 0) -> list[Any]:
        models = [loaded for loaded in mm.current_loaded_models if loaded.model is not None]
        infos = [self._info(key, loaded) for key, loaded in enumerate(models)]
        if not any(info.is_ours for info in infos):
            return []
        stay = self._policy(infos, reason, bytes_wanted)
        return [models[info.key] for info in infos if info.is_ours and info.key in stay]

    def _info(self, key: int, loaded: Any) -> LoadedModelInfo:
        tracked = self.of(loaded)
        return LoadedModelInfo(
            key=key,
            name=type(loaded.model.model).__name__,
            device=str(loaded.device),
            loaded_bytes=loaded.model_loaded_memory(),
            is_ours=tracked is not None,
            keep_loaded=tracked is not None and tracked.keep_loaded,
        )

    def _stores_on(self, loaded: Any, device: str) -> bool:
        tracked = self.of(loaded)
        residency = tracked.residency() if tracked is not None else None
        return residency is not None and residency.bytes_by_device.get(device, 0) > 0


def _free_devices(devices: Iterable[torch.device], kept: list[Any]) -> None:
    """Unload all of ComfyUI's loaded models but `kept` from these devices."""
    for device in devices:
        if any(loaded.device == device and loaded not in kept for loaded in mm.current_loaded_models):
            mm.free_memory(ALL_BYTES, device, keep_loaded=kept)


def _names(loaded_models: Iterable[Any]) -> list[str]:
    return [type(loaded.model.model).__name__ for loaded in loaded_models if loaded.model is not None]


def _models_in(value: Any) -> Iterator[Any]:
    """What can be tracked of a loader's output, whatever a pack wraps its models in.

    A dict has no weak references, so its models stand for it: packs hand out dicts of a model, its processor and its
    dtype, and the model alone is nobody else's.
    """
    if isinstance(value, Mapping):
        yield from (held for held in value.values() if _is_model(held))
    elif (patcher := patcher_of(value)) is not None:
        yield patcher.model
    elif hasattr(type(value), "__weakref__"):
        yield value


def _is_model(value: Any) -> bool:
    """A module, or a plain object around one."""
    held = vars(value).values() if hasattr(value, "__dict__") else ()
    return isinstance(value, (nn.Module, model_patcher.ModelPatcher)) or any(
        isinstance(each, nn.Module) for each in held
    )
