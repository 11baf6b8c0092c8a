"""The models that our nodes loaded: remembered weakly, so that they can be kept, reported and told from others."""

from __future__ import annotations

import itertools
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management as mm
import structlog
import torch
from torch import nn

from multigpu.multigpu_core.comfy.split.placement import ModelPlacement
from multigpu.multigpu_core.contract.unloading import LoadedModelInfo, UnloadReason
from multigpu.multigpu_core.devices import DeviceRegistry
from multigpu.multigpu_core.execution import Residency

log = structlog.get_logger("multigpu")

ALL_BYTES = 1e30  # what ComfyUI's own unload_all_models asks for


@dataclass(frozen=True)
class OurModel:
    """What one of our nodes asked for a model. Without a placement the model is whole on its device.

    The placement is referred to weakly, because it holds the model.
    """

    name: str
    keep_loaded: bool
    placement: weakref.ref[ModelPlacement] | None = None
    node: tuple[str, str] = ("", "")
    """The class and the id of the node that loaded it."""
    files: tuple[str, ...] = ()
    """The model files that the node names."""
    key: int = 0
    """Given by `OurModels`, for as long as the process lives."""

    def residency(self) -> Residency | None:
        """What the model occupies if it is split and loaded."""
        placement = self.placement() if self.placement is not None else None
        return placement.distribution.residency() if placement is not None else None


UnloadPolicy = Callable[[list[LoadedModelInfo], UnloadReason, int], "set[int]"]


class UnknownModelError(KeyError):
    """No model has this key, or it is gone."""


@dataclass(frozen=True)
class _Tracked:
    model: weakref.ref[nn.Module]
    ours: OurModel


class OurModels:
    """Models by weak reference: one that nobody uses any more is forgotten by itself.

    What loads or unloads belongs to the prompt worker. `of`, `residencies` and `set_keep` may be called by any thread.
    """

    def __init__(
        self, policy: UnloadPolicy, registry: DeviceRegistry, let_go: Callable[[], None] = lambda: None
    ) -> None:
        """`policy` names, by key, the models that stay; `let_go` is called where nothing may stay."""
        self._let_go = let_go
        self._policy = policy
        self._registry = registry
        self._tracked: tuple[_Tracked, ...] = ()
        """Replaced as a whole, never changed, so that reading it needs no lock."""
        self._changing = threading.Lock()
        self._keys = itertools.count(1)

    def add(self, model: nn.Module, ours: OurModel) -> None:
        tracked = _Tracked(weakref.ref(model), replace(ours, key=next(self._keys)))
        with self._changing:
            self._tracked = (*(each for each in self._tracked if each.model() not in (None, model)), tracked)

    def of(self, loaded: Any) -> OurModel | None:
        """What is known of one of ComfyUI's loaded models; None where it is not ours."""
        patcher = loaded.model
        if patcher is None:
            return None
        model = patcher.model
        return next((each.ours for each in self._tracked if each.model() is model), None)

    def set_keep(self, key: int, keep_loaded: bool) -> None:
        """Change whether a model is to stay.

        Raises:
            UnknownModelError: no model has this key (any more).
        """
        self._by_key(key)
        with self._changing:
            self._tracked = tuple(
                replace(each, ours=replace(each.ours, keep_loaded=keep_loaded)) if each.ours.key == key else each
                for each in self._tracked
            )

    @torch.inference_mode()  # as the nodes that load: see unload_all
    def unload(self, key: int) -> None:
        """Unload one model from all its devices, whatever its node says.

        Raises:
            UnknownModelError: no model has this key (any more).
        """
        model = self._by_key(key)
        for loaded in list(mm.current_loaded_models):
            if loaded.model is not None and loaded.model.model is model:
                _unload_alone(loaded)

    def residencies(self) -> Iterator[tuple[OurModel, Residency]]:
        """The split models that are loaded now."""
        for each in self._tracked:
            if residency := each.ours.residency():
                yield each.ours, residency

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
                _unload_alone(loaded)

    @torch.inference_mode()
    def unload_all(self, core_unload_all: Callable[[], None]) -> None:
        """ComfyUI's `unload_all_models`, sparing what the policy keeps; ComfyUI's own where nothing is kept.

        Between prompts torch is not in inference mode, in which nodes load models. A weight that is made in it and gets
        other data outside has no version counter: torch then refuses to detach it, and the next load fails.

        ComfyUI calls it as well while it handles an error of running out of memory: then nothing is spared.
        """
        is_out_of_memory = mm.is_oom(sys.exc_info()[1])
        if is_out_of_memory:
            self._let_go()
        kept = [] if is_out_of_memory else self._kept(UnloadReason.USER_FREED)
        if kept:
            self._unload_others(kept, {loaded.device for loaded in mm.current_loaded_models})
            names = _names(kept)
            log.info("models_kept", message=f"Unloaded all models but {', '.join(names)}: to be kept", models=names)
            return
        core_unload_all()
        self._unload_ours()  # ComfyUI before 0.20 has unloaded its own device alone

    def eject(self, devices: set[torch.device]) -> None:
        """Empty devices of every model that the policy does not keep."""
        kept = self._kept(UnloadReason.EJECT)
        leaving = [each for each in mm.current_loaded_models if each.device in devices and each not in kept]
        names, places = _names(leaving), [str(device) for device in devices]
        self._unload_others(kept, devices)
        if names:
            message = f"Unloaded {', '.join(names)} from {', '.join(places)}, to make room"
            log.info("models_ejected", message=message, models=names, devices=places)

    def _by_key(self, key: int) -> nn.Module:
        model = next((each.model() for each in self._tracked if each.ours.key == key), None)
        if model is None:
            raise UnknownModelError(key)
        return model

    def _kept(self, reason: UnloadReason, bytes_wanted: int = 0) -> list[Any]:
        models = [loaded for loaded in mm.current_loaded_models if loaded.model is not None]
        infos = [self._info(key, loaded) for key, loaded in enumerate(models)]
        if not any(info.is_ours for info in infos):
            return []
        stay = self._policy(infos, reason, bytes_wanted)
        return [models[info.key] for info in infos if info.is_ours and info.key in stay]

    def _info(self, key: int, loaded: Any) -> LoadedModelInfo:
        ours = self.of(loaded)
        return LoadedModelInfo(
            key=key,
            name=type(loaded.model.model).__name__,
            device=str(loaded.device),
            loaded_bytes=loaded.model_loaded_memory(),
            is_ours=ours is not None,
            keep_loaded=ours is not None and ours.keep_loaded,
        )

    def _stores_on(self, loaded: Any, device: str) -> bool:
        ours = self.of(loaded)
        residency = ours.residency() if ours is not None else None
        return residency is not None and residency.bytes_by_device.get(device, 0) > 0

    def _unload_ours(self) -> None:
        others = [loaded for loaded in mm.current_loaded_models if not self._is_ours(loaded)]
        self._unload_others(others, {loaded.device for loaded in mm.current_loaded_models if self._is_ours(loaded)})

    def _is_ours(self, loaded: Any) -> bool:
        return self.of(loaded) is not None

    def _unload_others(self, kept: list[Any], devices: set[torch.device]) -> None:
        for device in devices:
            if any(loaded.device == device and loaded not in kept for loaded in mm.current_loaded_models):
                mm.free_memory(ALL_BYTES, device, keep_loaded=kept)


def _unload_alone(loaded: Any) -> None:
    """Unload one of ComfyUI's loaded models and no other."""
    others = [other for other in mm.current_loaded_models if other is not loaded]
    mm.free_memory(ALL_BYTES, loaded.device, keep_loaded=others)


def _names(loaded_models: Iterable[Any]) -> list[str]:
    return [type(loaded.model.model).__name__ for loaded in loaded_models if loaded.model is not None]
