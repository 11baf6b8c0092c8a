"""How one model is placed: the request, the plan made for it, and the load that carries it out.

The order of a load keeps every device within its share: donors first, while the compute device is empty, then what
stays on it. A block that a LoRA patches is patched on the compute device at full precision and leaves it before the
next one comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import structlog
from torch import nn

from multigpu.multigpu_core.allocation import (
    AllocationMode,
    AllocationPlan,
    AllocationRequest,
    Inventory,
    StepPrediction,
    inventory_of_module,
    plan_table,
    predict_step,
)
from multigpu.multigpu_core.devices import DeviceInfo, HardwareProfile
from multigpu.multigpu_core.execution import Distribution

from .host import Host
from .patches import AppliedPatches, WeightPatcher

log = structlog.get_logger("multigpu")


class PlanAllocation(Protocol):
    """The plan-allocation hook as this room calls it."""

    def __call__(
        self,
        inventory: Inventory,
        request: AllocationRequest,
        devices: Sequence[DeviceInfo],
        reserve_bytes: Mapping[str, int],
        profile: HardwareProfile | None,
    ) -> AllocationPlan: ...


MakeRoom = Callable[[int, str, nn.Module], None]
"""Frees that many bytes on a device by unloading other models than the given one."""


@dataclass(frozen=True)
class PlacementOptions:
    """What a split node asks for beside the split itself."""

    request: AllocationRequest
    high_precision_loras: bool = True
    """Patch on the compute device; otherwise on the device that stores the weight."""


class ModelPlacement:
    """The placement of one model, shared by every patcher that shares the model."""

    def __init__(
        self, module: nn.Module, options: PlacementOptions, host: Host, plan: PlanAllocation, make_room: MakeRoom
    ) -> None:
        self.options = options
        self._host = host
        self._plan_allocation = plan
        self._make_room = make_room
        self._applied = AppliedPatches()
        self.distribution = Distribution(module, inventory_of_module(module), host.registry, host.page_locked)
        self._demoted_bytes = 0
        self.prediction: StepPrediction | None = None
        """What a step of the plan in force is expected to take, where the machine's speeds are known."""

    @property
    def compute_bytes_wanted(self) -> int:
        """Bytes of the compute device that this model asks for: what ComfyUI frees there before it loads the model.

        Raises:
            PlanError: the request cannot be met by these devices even when they are empty.
        """
        plan = self.distribution.plan
        if plan is not None:
            return plan.compute_bytes + max(plan.staging_bytes, self.distribution.staging_bytes)
        if self.options.request.mode is AllocationMode.AUTO:
            return self.distribution.inventory.total_bytes
        plan = self.draft()
        return plan.compute_bytes + plan.staging_bytes

    @property
    def compute_bytes_loaded(self) -> int:
        """Bytes that this model occupies on the compute device now: weights, and staging for those that come there."""
        stored = self.distribution.bytes_by_device().get(self.options.request.compute_device, 0)
        return stored + self.distribution.staging_bytes

    def draft(self) -> AllocationPlan:
        """The plan as it would be on empty devices."""
        infos = (self._host.registry.info(name) for name in self._device_names())
        empty = [replace(info, free_bytes=info.total_bytes) for info in infos]
        return self._plan_allocation(self.distribution.inventory, self.options.request, empty, {}, None)

    def load(self, patcher: WeightPatcher, weight_budget_bytes: float) -> None:
        """Place every block as planned, with the patcher's weight patches in it. Does only what is not done yet.

        `weight_budget_bytes` is what ComfyUI grants for weights on the compute device, in addition to what is there.

        Raises:
            PlanError: the request does not fit; nothing has moved.
            DistributionError: the weights are not where the plan puts them.
        """
        self.distribution.settle()
        plan = self._plan_in_force(weight_budget_bytes)
        outdated = self._applied.outdated(patcher)
        compute = self._host.registry.torch_device(plan.compute_device)
        devices = self._targets(plan, weight_budget_bytes)
        todo = [
            (block, devices[block.name], keys)
            for block in self.distribution.inventory.blocks
            if (keys := outdated.intersection(block.parameters))
            or not self.distribution.is_placed(block, devices[block.name])
        ]
        # Other devices' blocks first; on the compute device patched ones first: patching needs room of its own.
        todo.sort(key=lambda job: (job[1] == plan.compute_device, not job[2]))
        for block, device, keys in todo:
            patch_on = compute if self.options.high_precision_loras else self._host.registry.torch_device(device)
            for key in sorted(keys):
                self._applied.renew(patcher, key, patch_on)
            self.distribution.place(block, device)
        if todo:
            self.distribution.serve(devices)
            log.info("Placed", **self._loaded_line(len(todo)))
        self._shrink_to_grant(weight_budget_bytes)

    def demote(self, size_bytes: int) -> int:
        """Give up to `size_bytes` of the compute device back, by moving blocks to the cpu. Returns the bytes freed."""
        freed = self.distribution.demote(size_bytes, "cpu")
        self._demoted_bytes += freed
        return freed

    def weights_changed(self) -> None:
        """Say that ComfyUI has written to stored weights, in place."""
        self.distribution.weights_changed()

    def release(self) -> None:
        """The weights are the file's again and leave all devices: the caller moves them home."""
        self._log_steps()
        self.distribution.release()
        self._applied.forget()
        self._demoted_bytes = 0

    def _predict(self, plan: AllocationPlan) -> StepPrediction | None:
        try:
            return predict_step(plan, self._host.profile)
        except KeyError:  # a device that has come since the profile was read
            return None

    def _log_steps(self) -> None:
        """Say what a step was predicted to take and what it took, for whoever doubts the one or the other."""
        residency = self.distribution.residency()
        if residency is None or residency.step_seconds is None or self.prediction is None:
            return
        log.info(
            "Steps",
            model=type(self.distribution.module).__name__,
            predicted=f"{self.prediction.step_seconds:.3g}s",
            took=f"{residency.step_seconds:.3g}s",
        )

    def _plan_in_force(self, weight_budget_bytes: float) -> AllocationPlan:
        inventory = inventory_of_module(self.distribution.module)
        is_known = inventory == self.distribution.inventory
        self.distribution.take_stock(inventory)
        if self.distribution.plan is not None and is_known:
            return self.distribution.plan
        plan = self._make_plan(weight_budget_bytes)
        self.distribution.begin(plan)
        self.prediction = self._predict(plan)
        log.info(f"{type(self.distribution.module).__name__} is split\n{plan_table(plan, self.prediction)}")
        for warning in plan.warnings:
            log.warning(warning)
        return plan

    def _make_plan(self, weight_budget_bytes: float) -> AllocationPlan:
        request = self.options.request
        names = self._device_names()
        held = self.distribution.bytes_by_device()
        if request.mode is not AllocationMode.AUTO:
            for device, wanted in self.draft().bytes_by_device.items():
                if device != request.compute_device:  # ComfyUI has made room there already
                    self._make_room(wanted - held.get(device, 0), device, self.distribution.module)
        reserve = {}
        if request.mode is AllocationMode.AUTO:
            granted = weight_budget_bytes + held.get(request.compute_device, 0)
            reserve[request.compute_device] = self._host.inference_reserve_bytes(request.compute_device, granted)
        devices = self._host.devices_for(names, held)
        return self._plan_allocation(self.distribution.inventory, request, devices, reserve, self._host.profile)

    def _targets(self, plan: AllocationPlan, weight_budget_bytes: float) -> dict[str, str]:
        """Each block's device: the plan's, but what ComfyUI asked back stays away until there is room again."""
        wanted = {placement.block.name: placement.device for placement in plan.placements}
        if self._demoted_bytes:
            compute = plan.compute_device
            is_auto = self.options.request.mode is AllocationMode.AUTO
            room = weight_budget_bytes if is_auto else self._host.registry.free_bytes(compute)
            if room < self._demoted_bytes:
                blocks = self.distribution.inventory.blocks
                return {
                    b.name: self.distribution.device_of(b) if wanted[b.name] == compute else wanted[b.name]
                    for b in blocks
                }
            self._demoted_bytes = 0
        return wanted

    def _shrink_to_grant(self, weight_budget_bytes: float) -> None:
        """Give back what ComfyUI wants back. Only `auto` follows its estimate; a split that the user sized stands."""
        if weight_budget_bytes < 0 and self.options.request.mode is AllocationMode.AUTO:
            self.demote(int(-weight_budget_bytes))

    def _device_names(self) -> tuple[str, ...]:
        """The devices that the request may use; no other is touched, not even to ask for its memory."""
        request = self.options.request
        if request.mode is AllocationMode.AUTO:
            return self._host.registry.names()
        named = [request.compute_device, *(share.device for share in request.shares), *request.donors, "cpu"]
        return tuple(dict.fromkeys(named))

    def _loaded_line(self, block_count: int) -> dict[str, str | int]:
        """What a load did: how many blocks it touched, and the bytes found on each device afterwards."""
        found = {device: f"{size}b" for device, size in self.distribution.bytes_by_device().items() if size}
        return {"model": type(self.distribution.module).__name__, "blocks": block_count, **found}
