"""The patcher of a split model: a subclass of whatever patcher class the loader gave it.

ComfyUI goes on calling the methods that it always calls. Those that move weights are answered by the model's placement;
everything else (cloning, LoRA stacks, hooks, injections, callbacks) is the wrapped class's own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import structlog
import torch

from multigpu.multigpu_core.comfy.host.compatibility import model_management as mm
from multigpu.multigpu_core.comfy.host.compatibility import model_patcher, patcher_extension
from multigpu.multigpu_core.comfy.host.dynamic_vram import without_dynamic_vram
from multigpu.multigpu_core.comfy.host.loader_outputs import patcher_of, unload_model

from .cond_batch import WRAPPER_KEY, run_micro_batches
from .placement import ModelPlacement
from .sampling import guard_sampling
from .work_items import run_on_replicas

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher as PatcherClass
else:
    PatcherClass = object

log = structlog.get_logger("multigpu")

TRIES = 2
"""How often a step of an unload is taken."""


class AnotherDeviceError(RuntimeError):
    """Another node set a split model to compute on another device than its plan; the message says what to set."""

    def __init__(self, told: torch.device, planned: str) -> None:
        super().__init__(
            f"A node sets this split model to compute on {told}, but its loader's compute_device is {planned}: set "
            f"compute_device instead, or for {told} alone use the loader's MultiGPU node without a split."
        )


class DistributedPatcher(PatcherClass):  # type: ignore[misc]
    """Mixin over a ModelPatcher class; `distribute` makes instances."""

    BASE: type
    """The class that the loader gave the patcher."""
    multigpu_placement: ModelPlacement
    """The one attribute that we set on an object of ComfyUI's or a pack's."""
    skip_injection: bool

    def clone(self, *args: Any, **kwargs: Any) -> Any:
        cloned = super().clone(*args, **kwargs)
        if cloned.model is self.model:
            cloned.__class__ = type(self)  # GGUF's patcher sets its own class on every clone
            cloned.multigpu_placement = self.multigpu_placement
        else:  # a deep clone, for another device: whole, and ComfyUI's to place
            cloned.__class__ = self.BASE
            cloned.size = 0  # it was given this one's: the compute device's share
        return cloned

    def deepclone_multigpu(self, *args: Any, **kwargs: Any) -> Any:
        with without_dynamic_vram():  # the clone's patcher is a plain one, as this one was
            return super().deepclone_multigpu(*args, **kwargs)

    def model_size(self) -> int:
        """The compute device's share: what ComfyUI must find room for there."""
        return self.multigpu_placement.compute_bytes_wanted

    def load(
        self,
        device_to: Any = None,
        lowvram_model_memory: float = 0,
        force_patch_weights: bool = False,
        full_load: bool = False,
        **kwargs: Any,
    ) -> None:
        granted = lowvram_model_memory - self.loaded_size() if lowvram_model_memory and not full_load else float("inf")
        self._load_as_planned(granted, force_patch_weights)

    def partially_load(
        self, device_to: Any, extra_memory: float = 0, force_patch_weights: bool = False, **kwargs: Any
    ) -> int:
        before, skip_injection = self.loaded_size(), self.skip_injection
        try:
            with self.use_ejected(skip_and_inject_on_exit_only=True):
                self.unpatch_model(self.offload_device, unpatch_weights=False)
                self.patch_model(load_weights=False)
                self._load_or_offload_more(extra_memory, force_patch_weights)
        except BaseException:  # ComfyUI lists no model whose load has failed, or was interrupted
            self.skip_injection = skip_injection
            self.detach()
            raise
        return int(self.loaded_size() - before)

    def partially_unload(
        self, device_to: Any, memory_to_free: int = 0, force_patch_weights: bool = False, **kwargs: Any
    ) -> int:
        return self._freed_by(partial(self.multigpu_placement.demote, memory_to_free))

    def offload_more(self, share: float) -> int:
        """Move a share of what may move off the computing devices, until the model is unloaded. Returns bytes."""
        return self._freed_by(partial(self.multigpu_placement.offload_more, share))

    def detach(self, unpatch_all: bool = True) -> Any:
        """ComfyUI's. Where it fails, the model is unloaded all the same, unless ComfyUI still lists it as loaded."""
        try:
            return super().detach(unpatch_all)
        except BaseException:
            if unpatch_all or not any(map(self.is_clone, mm.loaded_models())):
                self.unpatch_model(self.offload_device)
            raise

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> None:
        """ComfyUI's. Unloading is finished whatever fails: half a model is of no use.

        A step that fails is taken once more. Only what fails twice is raised, and what is no Exception: ComfyUI's list
        of models is wrong after an unload that raises.
        """
        unpatch = partial(super().unpatch_model, device_to, unpatch_weights)
        if not unpatch_weights:
            unpatch()
            return
        ejecting = _tried_twice(self.eject_model)
        if len(ejecting) == TRIES:  # a pack's own code: it must not keep the weights on their devices
            self.is_injected = False
        failures = [ejecting, _tried_twice(self.multigpu_placement.release), _tried_twice(unpatch)]
        errors = [error for of_step in failures for error in of_step]
        for error in errors:
            if not isinstance(error, Exception):
                raise error
        for of_step in failures:
            if len(of_step) == TRIES:
                raise of_step[-1]
        if errors:
            name = type(self.model).__name__
            message = f"Unloading {name} failed ({errors[0]!r}). A second try succeeded: the model is unloaded."
            log.warning("unload_tried_again", message=message, model=name, error=repr(errors[0]))

    def patch_hooks(self, hooks: Any) -> None:
        try:
            super().patch_hooks(hooks)
        finally:
            self.multigpu_placement.weights_changed()

    def unpatch_hooks(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().unpatch_hooks(*args, **kwargs)
        finally:
            self.multigpu_placement.weights_changed()

    def _freed_by(self, free: Callable[[], int]) -> int:
        """Move weights off devices by `free`; where that fails and cannot be undone, the model is unloaded."""
        distribution = self.multigpu_placement.distribution
        try:
            with self.use_ejected():
                self.unpatch_hooks()
                return free()
        except BaseException:
            if not distribution.is_served:
                self.unpatch_model(self.offload_device)
            raise
        finally:
            if distribution.is_served:
                self.model.model_loaded_weight_memory = self.multigpu_placement.compute_bytes_loaded

    def _load_or_offload_more(self, extra_memory: float, force_patch_weights: bool) -> None:
        """Load as planned; where memory runs out and the plan may be bent, once more with less on that device."""
        before = self.multigpu_placement.compute_bytes_loaded
        try:
            self._load_as_planned(extra_memory, force_patch_weights)
            return
        except Exception as error:
            if not mm.is_oom(error):
                raise
            shortage = self.multigpu_placement.shortage()
            if (refusal := self.multigpu_placement.refusal(shortage)) is not None:
                raise refusal from error
            if not self.multigpu_placement.host.memory.retry_load:
                raise
        # Only now is the error gone, and with it what its frames held on the device.
        name = type(self.model).__name__
        log.warning(
            "loading_out_of_memory",
            message=f"{shortage}. Loading {name} again with more of it offloaded.",
            model=name,
            devices=[shortage.device],
            planned_bytes=shortage.planned_bytes,
            placed_bytes=shortage.placed_bytes,
        )
        self.unpatch_model(self.offload_device)
        self.patch_model(load_weights=False)
        self.multigpu_placement.limit(shortage)
        self._load_as_planned(extra_memory + before, force_patch_weights)

    def _load_as_planned(self, extra_memory: float, force_patch_weights: bool) -> None:
        """What core's `load` does, with the placement in the place of its choice of modules."""
        planned = self.multigpu_placement.options.request.compute_device
        if self.load_device != self.multigpu_placement.host.registry.torch_device(planned):
            raise AnotherDeviceError(self.load_device, planned)
        self.unpatch_hooks()
        self.multigpu_placement.load(self, extra_memory)
        self._prepare_casting()
        self._tell_model()
        for callback in self.get_all_callbacks(patcher_extension.CallbacksMP.ON_LOAD):
            callback(self, self.load_device, self.loaded_size(), force_patch_weights, False)
        self.apply_hooks(self.forced_hooks, force_apply=True)

    def _prepare_casting(self) -> None:
        """Set the operators' casting as core does for a full load: forced casts, and wrappers around weights."""
        for name, module in self.model.named_modules():
            if not hasattr(module, "comfy_cast_weights"):
                continue
            model_patcher.wipe_lowvram_weight(module)
            module.comfy_patched_weights = True  # else saving patches it once more
            if self.force_cast_weights:
                module.prev_comfy_cast_weights = module.comfy_cast_weights
                module.comfy_cast_weights = True
            if wrappers := self.weight_wrapper_patches.get(f"{name}.weight"):
                module.weight_function.extend(wrappers)
            if wrappers := self.weight_wrapper_patches.get(f"{name}.bias"):
                module.bias_function.extend(wrappers)

    def _tell_model(self) -> None:
        """Keep the books that ComfyUI keeps on the model itself."""
        self.model.device = self.load_device
        self.model.model_lowvram = False
        self.model.lowvram_patch_counter = 0
        self.model.model_loaded_weight_memory = self.multigpu_placement.compute_bytes_loaded
        self.model.model_offload_buffer_memory = 0
        self.model.current_weight_patches_uuid = self.patches_uuid


def distribute(patcher: Any, placement: ModelPlacement, compute: torch.device) -> Any:
    """Make a patcher that has not been loaded yet a distributed one, in place, and return it."""
    base: type = type(patcher)
    patcher.__class__ = _distributed_class(base)
    patcher.multigpu_placement = placement
    patcher.load_device = compute
    patcher.offload_device = torch.device("cpu")
    guard_sampling(patcher, placement)
    if placement.options.request.strategy.relays:
        run_micro_batches(patcher, placement)
    if placement.options.request.strategy.replicates:
        run_on_replicas(patcher, placement)
    return patcher


def _tried_twice(step: Callable[[], object]) -> list[BaseException]:
    """Take a step, and once more if it fails. Returns what it raised."""
    errors: list[BaseException] = []
    while len(errors) < TRIES:
        try:
            step()
            break
        except BaseException as error:
            errors.append(error)
    return errors


def placement_of(value: Any) -> ModelPlacement | None:
    """The placement of a split model that a loader's output is or holds; None for any other output."""
    patcher = patcher_of(value)
    return patcher.multigpu_placement if isinstance(patcher, DistributedPatcher) else None


def undistribute(patcher: Any) -> None:
    """Make a distributed patcher what its loader made it, unloaded: the opposite of `distribute`."""
    unload_model(patcher)
    kinds = patcher_extension.WrappersMP
    for kind in (kinds.OUTER_SAMPLE, kinds.CALC_COND_BATCH, kinds.APPLY_MODEL, kinds.PREPARE_SAMPLING):
        patcher.remove_wrappers_with_key(kind, WRAPPER_KEY)
    patcher.__class__ = patcher.BASE
    del patcher.multigpu_placement


@cache
def _distributed_class(base: type) -> type:
    return type(f"Distributed{base.__name__}", (DistributedPatcher, base), {"BASE": base})
