"""One run of a node variant: from its widgets to the placed outputs of the loader that it wraps."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
import torch
from comfy.model_patcher import ModelPatcher

from multigpu.multigpu_core.allocation import AllocationRequest, AllocationWidgets, Strategy, request_from_widgets
from multigpu.multigpu_core.comfy.auxiliary.auxiliary_models import serve_companions
from multigpu.multigpu_core.comfy.auxiliary.controlnets import compute_where_loaded
from multigpu.multigpu_core.comfy.host.compatibility import SPLITTING_REFUSED, Feature
from multigpu.multigpu_core.comfy.host.dynamic_vram import without_dynamic_vram
from multigpu.multigpu_core.comfy.host.executing import executing_node
from multigpu.multigpu_core.comfy.host.host import Host
from multigpu.multigpu_core.comfy.host.scope import DeviceScope, current_scope, device_scope
from multigpu.multigpu_core.comfy.memory.model_devices import Devices, ModelDevices
from multigpu.multigpu_core.comfy.memory.retained_outputs import KeptModels
from multigpu.multigpu_core.comfy.memory.tracked_models import OurModel, OurModels
from multigpu.multigpu_core.comfy.packs.pack_nodes import Pack, Packs, input_types
from multigpu.multigpu_core.comfy.split.patcher import distribute, placement_of, undistribute
from multigpu.multigpu_core.comfy.split.placement import ModelPlacement, PlacementOptions
from multigpu.multigpu_core.comfy.split.planning import PlanAllocation
from multigpu.multigpu_core.contract.loaders import DevicePart, NodeVariant

from .current_while_called import current_while_called
from .loader_class import LoaderClass, LoaderInstances, call_loader, is_v3, loader_function
from .loader_outputs import map_outputs, patcher_of, retarget, set_devices, unload, with_output, with_plain_patcher
from .model_files import is_model_file
from .rebuilding import make_rebuildable

log = structlog.get_logger("multigpu")


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
    models: OurModels
    plan: PlanAllocation
    missing: Mapping[Feature, str] = field(default_factory=dict)
    """Features that this ComfyUI has no place for, and why."""
    devices: ModelDevices = field(default_factory=ModelDevices)
    kept: KeptModels = field(default_factory=KeptModels)
    packs: Packs = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "packs", Packs(self.host.registry, self.devices))

    def home_of_results(self, device: torch.device) -> torch.device:
        """Where results go that ComfyUI would leave on `device`: to its own, if a node or model of ours works there."""
        is_ours = current_scope() is not None or self.devices.compute_on(device)
        return self.host.registry.torch_device(self.host.default_device()) if is_ours else device


@dataclass(frozen=True)
class Target:
    """What one of our nodes is made of: a variant, the class that it wraps, and that class's pack if it has ways."""

    variant: NodeVariant
    node: LoaderClass
    pack: Pack | None = None


@dataclass(frozen=True)
class LoadJob:
    """A variant's inputs, understood: one request for each part of the wrapped class's outputs."""

    target: Target
    inputs: Mapping[str, Any]
    requests: tuple[AllocationRequest, ...]
    theirs: Mapping[str, Any] = field(default_factory=dict)
    """What of the inputs the wrapped class is given."""
    offload: torch.device | None = None
    """Where models wait that are not needed; None for ComfyUI's own choice."""
    eject_models: bool = False
    keep_loaded: bool = False
    high_precision_loras: bool = True
    _requests_by_output: dict[int, AllocationRequest] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        by_output = {
            i: r for part, r in zip(self.target.variant.parts, self.requests, strict=True) for i in part.outputs
        }
        object.__setattr__(self, "_requests_by_output", by_output)

    @classmethod
    def of(cls, target: Target, inputs: Mapping[str, Any], theirs: Mapping[str, Any], context: LoadContext) -> LoadJob:
        """Read a variant's inputs.

        Raises:
            AllocationError, DeviceError: what is wrong in them, and what would be right.
        """
        followed = None
        if target.pack is not None:
            followed = context.packs.devices_for(target.pack, input_types(target.node), inputs)
        default = context.host.registry.name_of(followed.compute) if followed else context.host.default_device()
        return cls(
            target,
            inputs,
            tuple(_request(part, inputs, context.host, default) for part in target.variant.parts),
            theirs,
            offload=_offload(target.variant, inputs, context.host) or (followed.offload if followed else None),
            eject_models=bool(inputs.get("eject_models", False)),
            keep_loaded=bool(inputs.get("keep_loaded", False)),
            high_precision_loras=bool(inputs.get("high_precision_loras", True)),
        )

    @property
    def splits(self) -> bool:
        return any(request.splits for request in self.requests)

    def eject(self, context: LoadContext) -> None:
        """Make room on this job's devices, if its user wants that."""
        if self.eject_models:
            context.models.eject(set(self._devices_by_kind(context).values()))

    def kept_result(self, context: LoadContext) -> Any | None:
        """The result of a former run of the same node with the same inputs, if that was to be kept."""
        return context.kept.result(self.target.variant.node_id, self.inputs)

    @contextmanager
    def scope(self, context: LoadContext) -> Iterator[None]:
        """While the wrapped class runs, all that chooses a device there chooses this job's."""
        if not self.requests:
            yield
            return
        home = torch.device("cpu") if self.splits else None
        devices = DeviceScope(offload=home or self.offload, initial=home, **self._devices_by_kind(context))
        with ExitStack() as stack:
            if self._is_without_dynamic_vram:
                stack.enter_context(without_dynamic_vram())
            if self.target.pack is not None:
                stack.enter_context(context.packs.on(self.target.pack, devices, self.inputs))
            else:
                stack.enter_context(device_scope(devices))
            yield

    @property
    def _is_without_dynamic_vram(self) -> bool:
        """Whether DynamicVRAM can do nothing for any output: where it can for some, the others are loaded once more."""
        is_alone = len(self.target.node.RETURN_TYPES) == 1
        return (self.splits and is_alone) or all(request.compute_device == "cpu" for request in self.requests)

    def call(self, instances: LoaderInstances | None = None) -> Any:
        """Run the wrapped class: stay inside `scope`. A class that is async gives a coroutine.

        A V1 class runs in the one of `instances` that is for this job, and else in a new one.
        """
        if instances is None or is_v3(self.target.node):
            return call_loader(self.target.node, self.theirs)
        devices = (*(request.compute_device for request in self.requests), self.offload)
        instance = instances.of(self.target.node, devices, (self.requests, self.high_precision_loras))
        return call_loader(self.target.node, self.theirs, instance)

    def finish(self, result: Any, context: LoadContext) -> Any:
        """What the wrapped loader returned, with its models placed. Some load again for that: stay inside `scope`."""
        if not self.requests:
            return result
        placed = map_outputs(result, lambda index, value: self._placed(index, value, context))
        if self.target.variant.device_output:
            placed = with_output(placed, self.requests[0].compute_device)
        if self.keep_loaded:
            context.kept.keep(self.target.variant.node_id, self.inputs, placed)
        return placed

    def _placed(self, index: int, value: Any, context: LoadContext) -> Any:
        request = self._requests_by_output.get(index)
        if request is None or value is None:
            return value
        device = context.host.registry.torch_device(request.compute_device)
        part = next(part for part in self.target.variant.parts if index in part.outputs)
        splits = request.splits and part.splits and index == part.split_output
        placement = placement_of(value)
        if placement is not None and placement not in map(placement_of, self.theirs.values()):
            # The loader keeps its model and hands it out again.
            if splits and placement.options == self._options(request):
                self._remember(patcher_of(value), context, placement)
                return value
            undistribute(patcher_of(value))
        if not inspect.iscoroutinefunction(loader_function(self.target.node)):
            make_rebuildable(value, index, partial(self._call_again, context), self.theirs)
        if splits:
            value = self._split(value, request, device, context)
        else:
            value = retarget(value, device)
            if (patcher := patcher_of(value)) is not None:
                self._remember(patcher, context)
        context.devices.remember(value, Devices(device, self.offload))
        current_while_called(value)
        if Feature.COMPANIONS in context.missing:
            return value
        if isinstance(value, ModelPatcher):
            serve_companions(value)
        return compute_where_loaded(value)

    def _call_again(self, context: LoadContext) -> Any:
        with self.scope(context):
            return self.call()

    def _split(self, value: Any, request: AllocationRequest, device: torch.device, context: LoadContext) -> Any:
        if Feature.SPLITTING in context.missing:
            reason = f"this ComfyUI has changed: {context.missing[Feature.SPLITTING]}. {SPLITTING_REFUSED}"
            raise NotSplittableError(self.target.variant.node_id, reason)
        try:
            value = with_plain_patcher(value)
        except RuntimeError as error:
            raise NotSplittableError(
                self.target.variant.node_id,
                f"DynamicVRAM holds it and its loader cannot load it again ({error}). Start ComfyUI with "
                "--disable-dynamic-vram, or use the node's MultiGPU variant, which places the model whole.",
            ) from error
        patcher = patcher_of(value)
        if patcher is None:
            raise NotSplittableError(
                self.target.variant.node_id,
                f"a {type(value).__name__} has no weights that ComfyUI manages. Use the node's MultiGPU variant.",
            )
        unload(patcher)
        options = self._options(request)
        placement = ModelPlacement(patcher.model, options, context.host, context.plan, context.models.make_room)
        placement.draft()  # refuse now, at this node, what can never fit
        set_devices(value, device)
        self._remember(distribute(patcher, placement, device), context, placement)
        return value

    def _options(self, request: AllocationRequest) -> PlacementOptions:
        return PlacementOptions(request, self.high_precision_loras)

    def _remember(self, patcher: Any, context: LoadContext, placement: ModelPlacement | None = None) -> None:
        name = type(patcher.model).__name__
        reference = weakref.ref(placement) if placement is not None else None
        node = self.target.variant.node_id, executing_node() or ""
        files = tuple(str(value) for value in self.theirs.values() if is_model_file(value, context.host.formats))
        context.models.add(patcher.model, OurModel(name, self.keep_loaded, reference, node, files))

    def _devices_by_kind(self, context: LoadContext) -> dict[str, torch.device]:
        """The device for each kind of model that ComfyUI selects one for: diffusion models, text encoders, VAEs."""
        first = self.requests[0]
        kinds = {"model": first, "text_encoder": first, "vae": first}
        for index, output_type in enumerate(self.target.node.RETURN_TYPES):
            kind = {"CLIP": "text_encoder", "CLIP_VISION": "text_encoder", "VAE": "vae"}.get(output_type, "model")
            kinds[kind] = self._requests_by_output.get(index, kinds[kind])
        return {kind: context.host.registry.torch_device(request.compute_device) for kind, request in kinds.items()}


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
        strategy=Strategy(inputs.get("strategy") or host.default_strategy),
    )
    return request_from_widgets(widgets, host.registry.resolve)


def _other_cards(host: Host, device: str) -> tuple[str, ...]:
    compute = host.registry.resolve(device)
    return (*(name for name in host.registry.names() if name not in (compute, "cpu")), "cpu")
