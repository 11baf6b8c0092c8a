"""One run of a node variant: from its widgets to the placed outputs of the loader that it wraps."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import structlog
import torch

from multigpu.multigpu_core.allocation import AllocationRequest, AllocationWidgets, request_from_widgets
from multigpu.multigpu_core.comfy.auxiliary.auxiliary_models import serve_auxiliary_models
from multigpu.multigpu_core.comfy.auxiliary.controlnets import compute_where_loaded
from multigpu.multigpu_core.comfy.host.compatibility import SPLITTING_REFUSED, Feature, model_patcher
from multigpu.multigpu_core.comfy.host.dynamic_vram import without_dynamic_vram
from multigpu.multigpu_core.comfy.host.host import Host, executing_node
from multigpu.multigpu_core.comfy.host.loader_class import (
    LoaderClass,
    LoaderInstances,
    call_loader,
    is_v3,
    loader_function,
)
from multigpu.multigpu_core.comfy.host.loader_outputs import (
    make_rebuildable,
    map_outputs,
    patcher_of,
    retarget,
    set_devices,
    unload_model,
    with_output,
    with_plain_patcher,
)
from multigpu.multigpu_core.comfy.host.scope import Devices, current_scope, device_scope
from multigpu.multigpu_core.comfy.memory.tracked_models import TrackedModel, TrackedModels
from multigpu.multigpu_core.comfy.packs.pack_nodes import Pack, Packs, input_types
from multigpu.multigpu_core.comfy.split.patcher import distribute, placement_of, undistribute
from multigpu.multigpu_core.comfy.split.placement import ModelPlacement, PlacementOptions
from multigpu.multigpu_core.comfy.split.planning import PlanAllocation
from multigpu.multigpu_core.contract.loaders import DevicePart, NodeVariant
from multigpu.multigpu_core.strategies.strategy import Strategy

from .current_while_called import current_while_called
from .model_files import is_model_file

log = structlog.get_logger("multigpu")

Job = TypeVar("Job", bound="LoadJob")
CPU = torch.device("cpu")
KINDS = {"CLIP": "text_encoder", "CLIP_VISION": "text_encoder", "VAE": "vae"}
"""The field of `Devices` for an output, by its type; any other computes on `Devices.compute`."""


class NotSplittableError(RuntimeError):
    """A loader's output cannot be split. `node_id` is the node, `reason` says why, and what to use instead."""

    def __init__(self, node_id: str, reason: str) -> None:
        self.node_id = node_id
        self.reason = reason
        super().__init__(f"{node_id} cannot split this model: {reason}")


@dataclass(frozen=True)
class LoadContext:
    """What every load needs from the running framework."""

    host: Host
    models: TrackedModels
    plan: PlanAllocation
    packs: Packs
    missing: Mapping[Feature, str] = field(default_factory=dict)
    """Features that this ComfyUI has no place for, and why."""

    def home_of_results(self, device: torch.device) -> torch.device:
        """Where results go that ComfyUI would leave on `device`: its own, if a node or model of ours works there."""
        is_ours = current_scope() is not None or self.models.computes_on(device)
        return self.host.registry.torch_device(self.host.default_device()) if is_ours else device

    def may_record(self, device: torch.device) -> bool:
        """Whether Comfy Compiler may record on `device`: no split model is loaded, none of ours was moved there."""
        if next(self.models.residencies(), None) is not None:
            return False
        home = self.host.registry.torch_device(self.host.default_device())
        return device == home or not self.models.computes_on(device)


@dataclass(frozen=True)
class Target:
    """What one of our nodes is made of: a variant, the class that it wraps, and that class's pack if it is special."""

    variant: NodeVariant
    node: LoaderClass
    pack: Pack | None = None


@dataclass(frozen=True)
class LoadJob:
    """One run of a node variant: its inputs, understood, and what it takes to carry them out."""

    context: LoadContext
    target: Target
    inputs: Mapping[str, Any]
    loader_inputs: Mapping[str, Any]
    """What of the inputs the wrapped class is given."""
    requests: tuple[AllocationRequest, ...]
    """One for each part of the wrapped class's outputs."""
    offload: torch.device | None = None
    """Where models wait that are not needed; None for ComfyUI's own choice."""

    @classmethod
    def of(
        cls: type[Job],
        target: Target,
        inputs: Mapping[str, Any],
        loader_inputs: Mapping[str, Any],
        context: LoadContext,
    ) -> Job:
        """Read a variant's inputs.

        Raises:
            AllocationError, DeviceError: what is wrong in them, and what would be right.
        """
        followed = None
        if target.pack is not None:
            followed = context.packs.devices_for(target.pack, input_types(target.node), inputs)
        default = context.host.registry.name_of(followed.compute) if followed else context.host.default_device()
        requests = tuple(_request(part, inputs, context.host, default) for part in target.variant.parts)
        offload = _offload(target.variant, inputs, context.host) or (followed.offload if followed else None)
        return cls(context, target, inputs, loader_inputs, requests, offload)

    @property
    def splits(self) -> bool:
        return any(request.splits for request in self.requests)

    @property
    def keep_loaded(self) -> bool:
        return bool(self.inputs.get("keep_loaded", False)) and Feature.KEEPING not in self.context.missing

    @property
    def high_precision_loras(self) -> bool:
        return bool(self.inputs.get("high_precision_loras", True))

    @property
    def devices(self) -> Devices:
        """Where the models of each kind compute, as the node's user wants it."""
        kinds = dict.fromkeys(("compute", "text_encoder", "vae"), self.requests[0])
        for index, output_type in enumerate(self.target.node.RETURN_TYPES):
            kind = KINDS.get(output_type, "compute")
            if (wanted := self._wanted_for(index)) is not None:
                kinds[kind] = wanted[1]
        torch_device = self.context.host.registry.torch_device
        return Devices(
            **{kind: torch_device(request.compute_device) for kind, request in kinds.items()}, offload=self.offload
        )

    def eject(self) -> None:
        """Free memory on this job's devices, if its user wants that."""
        if self.inputs.get("eject_models", False):
            self.context.models.eject(self.devices.computing)

    def retained_result(self) -> Any | None:
        """The result of a former run of the same node with the same inputs, if that was retained."""
        return self.context.models.retained.result(self.target.variant.node_id, self.inputs)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """While the wrapped class runs, all that chooses a device there chooses this job's."""
        if not self.requests:
            yield
            return
        devices = self.devices
        if self.splits:
            devices = replace(devices, offload=CPU, initial=CPU)
        with ExitStack() as stack:
            if self._is_without_dynamic_vram:
                stack.enter_context(without_dynamic_vram())
            if self.target.pack is not None:
                stack.enter_context(self.context.packs.on(self.target.pack, devices, self.inputs))
            else:
                stack.enter_context(device_scope(devices))
            yield

    def call(self, instances: LoaderInstances | None = None) -> Any:
        """Run the wrapped class: stay inside `scope`. A class that is async gives a coroutine.

        A V1 class runs in the one of `instances` that is for this job, and else in a new one.
        """
        if instances is None or is_v3(self.target.node):
            return call_loader(self.target.node, self.loader_inputs)
        return call_loader(self.target.node, self.loader_inputs, self.instance(instances))

    def instance(self, instances: LoaderInstances) -> Any:
        """The one of `instances` that is for this job."""
        devices = (*(request.compute_device for request in self.requests), self.offload)
        return instances.of(self.target.node, devices, (self.requests, self.high_precision_loras))

    def finish(self, result: Any) -> Any:
        """What the wrapped loader returned, with its models placed. Some load again for that: stay inside `scope`."""
        if not self.requests:
            return result
        placed = map_outputs(result, self._placed)
        if self.target.variant.device_output:
            placed = with_output(placed, self.requests[0].compute_device)
        if self.keep_loaded:
            self.context.models.retained.keep(self.target.variant.node_id, self.inputs, placed)
        return placed

    @property
    def _is_without_dynamic_vram(self) -> bool:
        """Whether DynamicVRAM can do nothing for any output: where it can for some, the others are loaded once more."""
        is_alone = len(self.target.node.RETURN_TYPES) == 1
        return (self.splits and is_alone) or all(request.compute_device == "cpu" for request in self.requests)

    def _placed(self, index: int, value: Any) -> Any:
        """One output, its models on their device or ready to be split."""
        wanted = self._wanted_for(index)
        if wanted is None or value is None:
            return value
        part, request = wanted[0], _for(value, wanted[1])
        splits = request.splits and part.splits and index == part.split_output
        placement = placement_of(value)
        if placement is not None and placement not in map(placement_of, self.loader_inputs.values()):
            # The loader keeps its model and hands it out again.
            if splits and placement.options == PlacementOptions(request, self.high_precision_loras):
                self._track(value, request, placement)
                return value
            undistribute(patcher_of(value))
        if not inspect.iscoroutinefunction(loader_function(self.target.node)):
            make_rebuildable(value, index, self._call_again, self.loader_inputs)
        if splits:
            value = self._split(value, request)
        else:
            value = retarget(value, self.context.host.registry.torch_device(request.compute_device))
            self._track(value, request)
        current_while_called(value)
        if Feature.AUXILIARY_MODELS in self.context.missing:
            return value
        if isinstance(value, model_patcher.ModelPatcher):
            serve_auxiliary_models(value)
        return compute_where_loaded(value)

    def _call_again(self) -> Any:
        with self.scope():
            return self.call()

    def _split(self, value: Any, request: AllocationRequest) -> Any:
        """The output with a patcher that places its model's weights as requested, from its first load on."""
        node_id = self.target.variant.node_id
        if Feature.SPLITTING in self.context.missing:
            reason = f"this ComfyUI has changed: {self.context.missing[Feature.SPLITTING]}. {SPLITTING_REFUSED}"
            raise NotSplittableError(node_id, reason)
        try:
            value = with_plain_patcher(value)
        except RuntimeError as error:
            raise NotSplittableError(
                node_id,
                f"DynamicVRAM holds it and its loader cannot load it again ({error}). Start ComfyUI with "
                "--disable-dynamic-vram, or use the node's MultiGPU variant, which places the model whole.",
            ) from error
        patcher = patcher_of(value)
        if patcher is None:
            raise NotSplittableError(
                node_id,
                f"a {type(value).__name__} has no weights that ComfyUI manages. Use the node's MultiGPU variant.",
            )
        unload_model(patcher)
        context, options = self.context, PlacementOptions(request, self.high_precision_loras)
        placement = ModelPlacement(patcher.model, options, context.host, context.plan, context.models.make_room)
        placement.draft()  # refuse now, at this node, what can never fit
        device = context.host.registry.torch_device(request.compute_device)
        set_devices(value, device)
        distribute(patcher, placement, device)
        self._track(value, request, placement)
        return value

    def _track(self, value: Any, request: AllocationRequest, placement: ModelPlacement | None = None) -> None:
        """Enter the models of an output into the registry."""
        patcher = patcher_of(value)
        tracked = TrackedModel(
            name=type(patcher.model if patcher is not None else value).__name__,
            devices=Devices(self.context.host.registry.torch_device(request.compute_device), offload=self.offload),
            keep_loaded=self.keep_loaded,
            placement=weakref.ref(placement) if placement is not None else None,
            node=(self.target.variant.node_id, executing_node() or ""),
            files=tuple(
                str(value)
                for value in self.loader_inputs.values()
                if is_model_file(value, self.context.host.model_suffixes)
            ),
        )
        self.context.models.add(value, tracked)

    def _wanted_for(self, index: int) -> tuple[DevicePart, AllocationRequest] | None:
        """The part that an output belongs to, and its request; None for an output that the variant leaves alone."""
        pairs = zip(self.target.variant.parts, self.requests, strict=True)
        return next((pair for pair in pairs if index in pair[0].outputs), None)


def _for(value: Any, request: AllocationRequest) -> AllocationRequest:
    """The request as it is carried out for an output: only the steps of a sampling are shared by several devices."""
    patcher = patcher_of(value)
    if not request.strategy.replicates or (patcher is not None and hasattr(patcher.model, "apply_model")):
        return request
    return replace(request, strategy=Strategy.INTERLEAVE)


def _offload(variant: NodeVariant, inputs: Mapping[str, Any], host: Host) -> torch.device | None:
    chosen = [inputs.get(part.offload_input) for part in variant.parts if part.offload_input]
    return next((host.registry.torch_device(str(device)) for device in chosen if device), None)


def _request(part: DevicePart, inputs: Mapping[str, Any], host: Host, default: str) -> AllocationRequest:
    def given(name: str, default: Any) -> Any:
        value = inputs.get(part.prefix + name)
        return default if value is None else value

    device = str(given(part.device_input, "") or default)
    if not part.splits:
        return AllocationRequest(host.registry.resolve(device))
    widgets = AllocationWidgets(
        compute_device=device,
        virtual_vram_gb=float(given("virtual_vram_gb", 0.0)),
        donors=_other_cards(host, device) if given("use_other_vram", False) else str(given("donor_device", "cpu")),
        expert=str(given("expert_mode_allocations", "")),
        strategy=host.strategies.named(inputs.get("strategy") or host.default_strategy),
    )
    return request_from_widgets(widgets, host.registry.resolve)


def _other_cards(host: Host, device: str) -> tuple[str, ...]:
    compute = host.registry.resolve(device)
    return (*(name for name in host.registry.names() if name not in (compute, "cpu")), "cpu")
