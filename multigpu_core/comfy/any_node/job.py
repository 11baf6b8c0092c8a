"""One run of a node on its chosen device: around the call, and with its results after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from multigpu.multigpu_core.comfy.host.loader_class import LoaderInstances, is_v3
from multigpu.multigpu_core.comfy.host.loader_outputs import map_outputs, patcher_of
from multigpu.multigpu_core.comfy.nodes.loading import LoadJob
from multigpu.multigpu_core.comfy.nodes.variants import VariantNode

from .call_scope import SelfLoadingPack, strays
from .choice import Choice
from .in_comfyui import intermediate_device
from .kept.held_devices import modules_in
from .outputs import DATA_TYPES, at_home, noise_at_home, with_explicit_devices


@dataclass(frozen=True)
class SelfLoadingJob(LoadJob):
    """A load job around a node that chooses devices by itself."""

    pack: SelfLoadingPack | None = None
    instances: LoaderInstances | None = None
    """The instances of the wrapped class, which may hold models."""

    @property
    def choice(self) -> Choice:
        assert self.pack is not None
        return self.pack.choice(self.context.host, self.devices)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """While the wrapped class runs, all that chooses a device there chooses this job's."""
        assert self.pack is not None
        choice, node_id = self.choice, self.target.variant.node_id
        with self.pack.running(node_id, choice):
            yield
        kept: list[Any] = [value for device, value in self.pack.caches.models() if device == choice.name]
        if self.instances is not None and not is_v3(self.target.node):
            kept.append(getattr(self.instance(self.instances), "__dict__", None))
        self._require_on_device(choice, kept)
        self.pack.kept.note(node_id, kept)

    def finish(self, result: Any) -> Any:
        """What the node returned: data where ComfyUI expects it, models tracked on their device."""
        own = self._own_results(result)
        # ComfyUI can move what has a patcher.
        self._require_on_device(self.choice, [value for value in own if patcher_of(value) is None])
        if self.pack is not None:
            self.pack.kept.note(self.target.variant.node_id, own)
        return map_outputs(super().finish(result), self._delivered)

    def _require_on_device(self, choice: Choice, values: list[Any]) -> None:
        """Refuse what the node has put on another accelerator; what it was given may be anywhere."""
        assert self.pack is not None
        if found := strays(values, self.loader_inputs.values(), choice):
            places = " and ".join(sorted(map(str, found)))
            problem = f"it put its model on {places}"
            raise self.pack.not_moved(self.target.variant.node_id, choice, problem)

    def _own_results(self, result: Any) -> list[Any]:
        own: list[Any] = []
        map_outputs(result, lambda index, value: own.append(value) if self._wanted_for(index) else None)
        return own

    def _placed(self, index: int, value: Any) -> Any:
        """A model that the node was given stays where it is."""
        given = {id(module) for each in self.loader_inputs.values() for module in _models(each)}
        if any(id(module) in given for module in _models(value)):
            return value
        return super()._placed(index, with_explicit_devices(value, self.choice))

    def _delivered(self, index: int, value: Any) -> Any:
        return delivered(self.target.node.RETURN_TYPES, index, value)


def delivered(types: Any, index: int, value: Any) -> Any:
    """One output where the next node expects it."""
    kind = types[index] if index < len(types) else ""
    if kind not in DATA_TYPES:
        return value
    return (noise_at_home if kind == "NOISE" else at_home)(value, intermediate_device())


def _models(value: Any) -> list[Any]:
    patcher = patcher_of(value)
    return [patcher.model] if patcher is not None else list(modules_in(value, depth=2))


class SelfLoadingNode(VariantNode):
    """Base of the variants of nodes that load their own models."""

    PACK_STATE: SelfLoadingPack

    def _job(self, inputs: dict[str, Any]) -> SelfLoadingJob:
        job = SelfLoadingJob.of(self._target(), self._single(inputs), self.their_inputs(inputs), self.CONTEXT)
        return replace(job, pack=self.PACK_STATE, instances=self._instances)

    def _single(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs with our device as one value, where the class wants a list of each."""
        ours = {added.name for added in self._ours()}
        return {name: value[0] if name in ours and isinstance(value, list) else value for name, value in inputs.items()}


class LazySelfLoadingNode(SelfLoadingNode):
    """The variant of a class that says which of its inputs it needs."""

    def check_lazy_status(self, **inputs: Any) -> Any:
        wrapped = self._job(inputs).instance(self._instances)
        return wrapped.check_lazy_status(**self.their_inputs(inputs))
