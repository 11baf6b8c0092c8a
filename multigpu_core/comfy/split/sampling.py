"""Guard a sampling of a split model: leave nothing half done, and retry after running out of memory.

ComfyUI calls wrappers of `OUTER_SAMPLE` around one whole sampling, the loading of its models included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
import torch
from torch import Tensor

from multigpu.multigpu_core.allocation import readable_bytes
from multigpu.multigpu_core.comfy.host.compatibility import model_management as mm
from multigpu.multigpu_core.comfy.host.compatibility import patcher_extension, sampler_helpers
from multigpu.multigpu_core.comfy.host.loader_outputs import ALL_BYTES

from .cond_batch import WRAPPER_KEY

if TYPE_CHECKING:
    from .placement import ModelPlacement

log = structlog.get_logger("multigpu")

SHARES_OFFLOADED = {2: 0.5, 1: 1.0}
"""By the tries that are left, the share of weights still on the computing devices that is offloaded before the next.

No allocator tells what a whole sampling would have needed: most of the staging buffer first, or half of the weights
where that frees nothing, and if that was too little, all.
"""

ON_OTHER_DEVICES = "Expected all tensors to be on the same device"
"""How torch's error begins when an operator gets tensors of several devices."""


class NotRelayableError(RuntimeError):
    """A block on a donor uses a tensor that stayed on the compute device; the message says what to set."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(
            f"{model} cannot be computed with the strategy relay: a block on a donor uses a tensor that is none of its "
            "arguments, so the tensor stayed where it was. Set strategy to interleave or contiguous. "
            f"torch says: {reason}"
        )


def guard_sampling(patcher: Any, placement: ModelPlacement) -> None:
    """Guard every sampling by the patcher and all its clones."""

    def outer_sample(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        guider = executor.class_obj
        sample: Callable[[], Tensor] = partial(executor, *args, **kwargs)
        if guider.model_patcher.model is not placement.distribution.module:  # a copy of it for another device
            return sample()
        return _sample(sample, guider, placement)

    wrapper = patcher_extension.WrappersMP.OUTER_SAMPLE
    patcher.add_wrapper_with_key(wrapper, WRAPPER_KEY, outer_sample)


def _sample(sample: Callable[[], Tensor], guider: Any, placement: ModelPlacement) -> Tensor:
    beginning = _Beginning.of(guider)
    tries_left = placement.host.memory.sampling_retries
    share = 0.0
    while True:
        try:
            if share:
                _offload_more(guider.model_patcher, placement, share)
            return sample()
        except BaseException as error:  # an interrupt, too, leaves the weights in their places
            placement.distribution.settle()
            if placement.options.request.strategy.relays and str(error).startswith(ON_OTHER_DEVICES):
                raise NotRelayableError(type(guider.model_patcher.model).__name__, str(error)) from error
            may_offload = tries_left > 0 and placement.can_offload_more
            may_retry = may_offload or (placement.host.memory.sampling_retries and placement.distribution.replicas)
            if not mm.is_oom(error) or not may_retry:
                raise
        # Only now is the error gone, and with it all that its frames held on the device.
        beginning.restore(guider)
        share = SHARES_OFFLOADED[tries_left] if may_offload else 0.0
        if may_offload:
            tries_left -= 1
        else:
            _compute_alone(placement)


def _offload_more(patcher: Any, placement: ModelPlacement, share: float) -> None:
    """Free the computing devices of all other models and of a share of this one."""
    loaded_models = [loaded for loaded in mm.current_loaded_models if loaded.model is not None]
    ours = [loaded for loaded in loaded_models if patcher.is_clone(loaded.model)]
    for device in placement.computing_devices:
        mm.free_memory(ALL_BYTES, device, keep_loaded=ours)
    freed = patcher.offload_more(share)
    mm.soft_empty_cache()
    model, setting = type(patcher.model).__name__, placement.setting_in_force
    size = readable_bytes(freed)
    what = (
        f"Moved {size} of its weights to system memory"
        if placement.are_weights_held_back
        else f"Freed {size} of staging"
    )
    log.warning(
        "sampling_out_of_memory",
        message=f"{model}: sampling ran out of memory. {what}; retrying with the same seed. "
        f"To avoid this, set {setting}.",
        model=model,
        devices=[str(device) for device in placement.computing_devices],
        freed_bytes=freed,
        setting=setting,
    )


def _compute_alone(placement: ModelPlacement) -> None:
    """Free the replicas, where nothing more can be offloaded."""
    devices = [str(device) for device in placement.computing_devices]
    placement.compute_alone()
    mm.soft_empty_cache()
    log.warning(
        "sampling_on_one_device",
        message=f"{placement.name}: sampling ran out of memory on {', '.join(devices)}. Retrying with the same seed on "
        f"{devices[0]} alone.",
        model=placement.name,
        devices=devices,
    )


@dataclass(frozen=True)
class _Beginning:
    """What a sampling changes of its guider and of the random generators, as it was before."""

    conds: Mapping[str, list[dict[str, Any]]]
    host_generator: Tensor
    device_generator: Tensor | None

    @classmethod
    def of(cls, guider: Any) -> _Beginning:
        device = guider.model_patcher.load_device
        has_generator = hasattr(_device_module(device), "get_rng_state")
        return cls(
            _copied(guider.conds),
            torch.get_rng_state(),
            _device_module(device).get_rng_state(device) if has_generator else None,
        )

    def restore(self, guider: Any) -> None:
        sampler_helpers.cleanup_models(guider.conds, getattr(guider, "loaded_models", ()))
        guider.conds = _copied(self.conds)
        torch.set_rng_state(self.host_generator)
        if self.device_generator is not None:
            device = guider.model_patcher.load_device
            _device_module(device).set_rng_state(self.device_generator, device)


def _copied(conds: Mapping[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    return {name: [dict(cond) for cond in each] for name, each in conds.items()}


def _device_module(device: torch.device) -> Any:
    """`torch.cuda`, `torch.xpu`, …; None for the cpu, whose generator is torch's own, and where there is none."""
    return getattr(torch, device.type, None) if device.type != "cpu" else None
