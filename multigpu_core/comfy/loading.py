"""One run of a node variant: from its widgets to the placed outputs of the loader that it wraps."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import comfy.model_patcher
import structlog
import torch

from multigpu.multigpu_core.allocation import AllocationRequest, AllocationWidgets, Strategy, request_from_widgets
from multigpu.multigpu_core.plugins.loaders import DevicePart, NodeVariant

from .following import FollowedModels, on_one_device
from .host import Host
from .ours import OurModel, OurModels
from .patcher import distribute
from .placement import ModelPlacement, PlacementOptions, PlanAllocation
from .results import map_outputs, patcher_of, retarget, set_devices, with_plain_patcher
from .scope import DeviceScope, device_scope

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
    followed: FollowedModels = field(default_factory=FollowedModels)


@dataclass(frozen=True)
class LoadJob:
    """A variant's inputs, understood: one request for each part of the wrapped loader's outputs."""

    variant: NodeVariant
    output_types: tuple[str, ...]
    requests: tuple[AllocationRequest, ...]
    offload_devices: tuple[str | None, ...] = ()
    """Where each part waits while it is not used, by name; None leaves it to ComfyUI."""
    eject_models: bool = False
    keep_loaded: bool = False
    high_precision_loras: bool = True
    _requests_by_output: dict[int, AllocationRequest] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        by_output = {i: r for part, r in zip(self.variant.parts, self.requests, strict=True) for i in part.outputs}
        object.__setattr__(self, "_requests_by_output", by_output)

    @classmethod
    def of(
        cls, variant: NodeVariant, output_types: tuple[str, ...], inputs: Mapping[str, Any], context: LoadContext
    ) -> LoadJob:
        """Read a variant's inputs.

        Raises:
            AllocationError, DeviceError: what is wrong in them, and what would be right.
        """
        return cls(
            variant,
            output_types,
            tuple(_request(part, inputs, context.host) for part in variant.parts),
            tuple(_offload_device(part, inputs, context.host) for part in variant.parts),
            eject_models=bool(inputs.get("eject_models", False)),
            keep_loaded=bool(inputs.get("keep_loaded", False)),
            high_precision_loras=bool(inputs.get("high_precision_loras", True)),
        )

    @contextmanager
    def scope(self, context: LoadContext, alone: bool = True) -> Iterator[None]:
        """While the wrapped loader runs, ComfyUI's device selection answers with this job's devices.

        `alone` says that nothing else runs meanwhile, as something may while an async loader waits.
        """
        if not self.requests:
            yield
            return
        registry = context.host.registry
        devices = {kind: registry.torch_device(request.compute_device) for kind, request in self._by_kind().items()}
        if self.eject_models:
            context.models.eject(set(devices.values()))
        splits = any(request.splits for request in self.requests)
        home = torch.device("cpu") if splits else self._offload(0, context)
        patchers = _plain_patchers() if alone and splits and len(self.output_types) == 1 else nullcontext()
        with device_scope(DeviceScope(offload=home, initial=home if splits else None, **devices)), patchers:
            yield

    def finish(self, result: Any, context: LoadContext) -> Any:
        """What the wrapped loader returned, with its models placed. Some load again for that: stay inside `scope`."""
        if not self.requests:
            return result
        return map_outputs(result, lambda index, value: self._placed(index, value, context))

    def _placed(self, index: int, value: Any, context: LoadContext) -> Any:
        request = self._requests_by_output.get(index)
        if request is None or value is None:
            return value
        device = context.host.registry.torch_device(request.compute_device)
        part = next(part for part in self.variant.parts if index in part.outputs)
        if not (request.splits and part.splits and index == part.split_output):
            value = retarget(value, device)
            if (patcher := patcher_of(value)) is not None:
                self._remember(patcher, context)
            offload = self._offload(self.variant.parts.index(part), context)
            context.followed.remember(value, on_one_device(device, offload))
            return value
        return self._split(value, request, device, context)

    def _split(self, value: Any, request: AllocationRequest, device: torch.device, context: LoadContext) -> Any:
        try:
            value = with_plain_patcher(value)
        except RuntimeError as error:
            raise NotSplittableError(
                self.variant.node_id,
                f"DynamicVRAM holds it and its loader cannot load it again ({error}). Start ComfyUI with "
                "--disable-dynamic-vram, or use the node's MultiGPU variant, which places the model whole.",
            ) from error
        patcher = patcher_of(value)
        if patcher is None:
            raise NotSplittableError(
                self.variant.node_id,
                f"a {type(value).__name__} has no weights that ComfyUI manages. Use the node's MultiGPU variant.",
            )
        options = PlacementOptions(request, self.high_precision_loras)
        placement = ModelPlacement(patcher.model, options, context.host, context.plan, context.models.make_room)
        placement.draft()  # refuse now, at this node, what can never fit
        set_devices(value, device)
        self._remember(distribute(patcher, placement, device), context, placement)
        return value

    def _remember(self, patcher: Any, context: LoadContext, placement: ModelPlacement | None = None) -> None:
        name = type(patcher.model).__name__
        reference = weakref.ref(placement) if placement is not None else None
        context.models.add(patcher.model, OurModel(name, self.keep_loaded, reference))

    def _offload(self, part: int, context: LoadContext) -> torch.device | None:
        name = self.offload_devices[part] if self.offload_devices else None
        return context.host.registry.torch_device(name) if name else None

    def _by_kind(self) -> dict[str, AllocationRequest]:
        """The request for each kind of device that ComfyUI selects: diffusion models, text encoders, VAEs."""
        first = self.requests[0]
        kinds = {"model": first, "text_encoder": first, "vae": first}
        for index, output_type in enumerate(self.output_types):
            kind = {"CLIP": "text_encoder", "CLIP_VISION": "text_encoder", "VAE": "vae"}.get(output_type, "model")
            kinds[kind] = self._requests_by_output.get(index, kinds[kind])
        return kinds


def _request(part: DevicePart, inputs: Mapping[str, Any], host: Host) -> AllocationRequest:
    def given(name: str, default: Any) -> Any:
        value = inputs.get(part.prefix + name)
        return default if value is None else value

    device = str(given(part.device_input, "") or host.default_device())
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


def _offload_device(part: DevicePart, inputs: Mapping[str, Any], host: Host) -> str | None:
    chosen = inputs.get(part.prefix + part.offload_input) if part.offload_input else None
    return host.registry.resolve(str(chosen)) if chosen else None


def _other_cards(host: Host, device: str) -> tuple[str, ...]:
    compute = host.registry.resolve(device)
    return (*(name for name in host.registry.names() if name not in (compute, "cpu")), "cpu")


@contextmanager
def _plain_patchers() -> Iterator[None]:
    """Let core's loaders make the patcher that obeys a split, where DynamicVRAM has put its own in its place."""
    chosen = comfy.model_patcher.CoreModelPatcher
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcher
    try:
        yield
    finally:
        comfy.model_patcher.CoreModelPatcher = chosen
