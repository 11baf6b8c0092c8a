"""How one model is placed: the request, the plan made for it, and the load that carries it out.

The order of a load keeps every device within its share: donors first, while the compute device is empty, then what
stays on it. A block that a LoRA patches is patched on the compute device at full precision and leaves it before the
next one comes.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import nn

from multigpu.multigpu_core.allocation import AllocationMode, AllocationPlan, AllocationRequest, StepPrediction
from multigpu.multigpu_core.allocation.inventory.of_module import inventory_of_module
from multigpu.multigpu_core.comfy.host.compatibility import comfy_utils
from multigpu.multigpu_core.comfy.host.host import Host
from multigpu.multigpu_core.execution import Distribution

from .load_oom import LoadOutOfMemoryError, Shortage
from .placement_events import log_demoted, log_loaded, log_planned, log_steps, log_unloaded, log_warning
from .planning import MakeRoom, PlanAllocation, Planning, setting_for
from .weight_patches import AppliedPatches, WeightPatcher

NO_OTHER_GPU = "Only {} computes. Name another GPU of its kind in the allocation string to let it compute a part."


@dataclass(frozen=True)
class PlacementOptions:
    """A split node's options beside the split itself."""

    request: AllocationRequest
    high_precision_loras: bool = True
    """Patch on the compute device; otherwise on the device that stores the weight."""


class ModelPlacement:
    """The placement of one model, shared by every patcher that shares the model."""

    def __init__(
        self, module: nn.Module, options: PlacementOptions, host: Host, plan: PlanAllocation, make_room: MakeRoom
    ) -> None:
        self.options = options
        self.host = host
        self._planning = Planning(options.request, host, plan, make_room)
        self._applied = AppliedPatches(host.pinned)
        self.distribution = Distribution(module, inventory_of_module(module), host.registry, host.pinned)
        self._demoted_bytes = 0
        self._held_back_bytes = 0
        self.are_weights_held_back = False
        """Whether weights were moved to system memory because a sampling ran out of memory, until `release`."""
        self._warned_of: set[str] = set()
        self._filling = options.request.compute_device
        self.prediction: StepPrediction | None = None
        """What a step of the plan in force is expected to take, where the machine's speeds are known."""

    @property
    def compute_bytes_wanted(self) -> int:
        """Bytes of the compute device that this model asks for: what ComfyUI frees there before it loads the model.

        Raises:
            PlanError: the request cannot be met by these devices even when they are empty.
        """
        plan = self.distribution.plan
        if plan is not None and self._held_back_bytes:
            return self.compute_bytes_loaded
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
        return self._planning.draft(self.distribution.inventory)

    def load(self, patcher: WeightPatcher, weight_budget_bytes: float) -> None:
        """Place every block as planned, with the patcher's weight patches in it. Does only what is not done yet.

        `weight_budget_bytes` is what ComfyUI grants for weights on the compute device, in addition to what is there.

        Raises:
            PlanError: the request does not fit; nothing has moved.
            DistributionError: the weights are not where the plan puts them.
        """
        begin = time.perf_counter()
        self.distribution.settle()
        self._filling = self.options.request.compute_device
        plan = self._plan_in_force(weight_budget_bytes)
        outdated = self._applied.outdated(patcher)
        devices = self._targets(plan, weight_budget_bytes)
        todo = [
            (block, devices[block.name], keys)
            for block in self.distribution.parts
            if (keys := outdated.intersection(block.parameters))
            or not self.distribution.is_placed(block, devices[block.name])
        ]
        # Other devices' blocks first; on the compute device patched ones first: patching needs room of its own.
        todo.sort(key=lambda job: (job[1] == plan.compute_device, not job[2]))
        progress = comfy_utils.ProgressBar(len(todo))
        for block, device, keys in todo:
            self._filling = plan.compute_device if keys and self.options.high_precision_loras else device
            patch_on = self.host.registry.torch_device(self._filling)
            for key in sorted(keys):
                self._applied.renew(patcher, key, patch_on)
            self._filling = device
            self.distribution.place(block, device)
            progress.update(1)
        self._filling = plan.compute_device
        if todo or not self.distribution.is_served:
            self.distribution.serve(devices)
            seconds = time.perf_counter() - begin
            log_loaded(self.name, len(todo), self.distribution.bytes_by_device(), seconds)
        self._shrink_to_grant(weight_budget_bytes)

    def demote(self, size_bytes: int) -> int:
        """Give up to `size_bytes` of the compute device back, by moving blocks to the cpu. Returns the bytes freed."""
        freed = self.distribution.demote(size_bytes, "cpu")
        self._demoted_bytes += freed
        if freed:
            log_demoted(self.name, self.options.request.compute_device, freed)
        return freed

    def offload_more(self, share: float) -> int:
        """Free memory of the computing devices until `release`. Returns the bytes freed.

        The staging buffer becomes as small as it can be. Where that frees nothing, or all is to go, so does that share
        of the movable weights on the fullest of the devices.
        """
        freed = self.distribution.save_staging()
        movable = {device: self.distribution.movable_on(device) for device in self._computing}
        if any(movable.values()) and (share == 1 or not freed):
            fullest = min(filter(movable.get, movable), key=self.host.registry.free_bytes)
            size = sum(block.size_bytes for block in movable[fullest])
            freed += self.distribution.demote(math.ceil(share * size), "cpu", fullest)
            self.are_weights_held_back = True
        self._held_back_bytes += freed
        return freed

    def compute_alone(self) -> None:
        """Free the replicas until `release`: the compute device does all the work."""
        self.distribution.compute_alone()

    @property
    def can_offload_more(self) -> bool:
        """Whether a computing device stores anything that could be offloaded."""
        staging = self.distribution.staging_bytes if not self._held_back_bytes else 0
        return staging > 0 or any(self.distribution.movable_on(device) for device in self._computing)

    @property
    def computing_devices(self) -> tuple[torch.device, ...]:
        """The devices on which blocks of the loaded model are computed."""
        return tuple(self.host.registry.torch_device(device) for device in self._computing)

    @property
    def name(self) -> str:
        """The model's, for messages."""
        return type(self.distribution.module).__name__

    @property
    def _computing(self) -> tuple[str, ...]:
        plan = self.distribution.plan
        if plan is None:
            return ()
        relays = (placement.device for placement in plan.placements if placement.relayed)
        replicas = plan.replica_devices if self.distribution.replicas is not None else ()
        return tuple(dict.fromkeys((plan.compute_device, *relays, *replicas)))

    @property
    def setting_in_force(self) -> str:
        """What a user sets to get by intent what the loaded model came to."""
        if self._held_back_bytes and not self.are_weights_held_back:
            return 'planner.staging to "small" in plugins.toml'
        return setting_for(self.options.request, self.distribution.bytes_by_device())

    def shortage(self) -> Shortage:
        """What a load that has just run out of memory lacked: ask before anything is moved home."""
        plan, placed = self.distribution.plan, self.distribution.bytes_by_device()
        planned = dict(plan.bytes_by_device) if plan is not None else {}
        if plan is not None:
            planned[plan.compute_device] += plan.staging_bytes
            planned |= dict.fromkeys(plan.replica_devices, planned[plan.compute_device])
        replicas = self.distribution.replicas
        filling = (replicas.filling if replicas is not None else None) or self._filling
        return Shortage(filling, planned.get(filling, 0), placed.get(filling, 0))

    def limit(self, shortage: Shortage) -> None:
        """Plan no more for a device than fit there, until `release`."""
        self._planning.limits[shortage.device] = shortage.placed_bytes
        self.host.registry.empty_cache(shortage.device)

    def refusal(self, shortage: Shortage) -> LoadOutOfMemoryError | None:
        """For a split that the user wrote out, the error that says what would fit instead; None for others."""
        plan = self.distribution.plan
        if not self.options.request.is_explicit or plan is None:
            return None
        return self._planning.refusal(shortage, self.distribution.inventory, plan, self.distribution.bytes_by_device())

    def weights_changed(self) -> None:
        """Say that ComfyUI has written to stored weights, in place."""
        self.distribution.weights_changed()

    def release(self) -> None:
        """The weights are the file's again and leave all devices: the caller moves them home."""
        with ExitStack() as whatever_fails:
            whatever_fails.callback(self._forget)
            whatever_fails.callback(self.distribution.release)
            residency = self.distribution.residency()
            if residency is not None:
                log_steps(self.name, residency, self.prediction)
                log_unloaded(self.name, residency.bytes_by_device)

    def _forget(self) -> None:
        self._applied.forget()
        self._demoted_bytes = self._held_back_bytes = 0
        self.are_weights_held_back = False
        self._planning.limits.clear()

    def _plan_in_force(self, weight_budget_bytes: float) -> AllocationPlan:
        inventory = inventory_of_module(self.distribution.module)
        is_known = inventory == self.distribution.inventory
        self.distribution.take_stock(inventory)
        if self.distribution.plan is not None and is_known:
            return self.distribution.plan
        distribution = self.distribution
        held = distribution.bytes_by_device()
        plan = self._planning.plan(inventory, distribution.module, held, weight_budget_bytes)
        self.distribution.begin(plan)
        self.prediction = self._planning.predict(plan)
        log_planned(self.name, plan, self.prediction)
        for warning in (each for each in plan.warnings if each not in self._warned_of):
            log_warning(self.name, warning)  # once, not at every load
        self._warned_of.update(plan.warnings)
        if plan.strategy.replicates and not plan.work_shares and NO_OTHER_GPU not in self._warned_of:
            log_warning(self.name, NO_OTHER_GPU.format(plan.compute_device))
            self._warned_of.add(NO_OTHER_GPU)
        return plan

    def _targets(self, plan: AllocationPlan, weight_budget_bytes: float) -> dict[str, str]:
        """Each block's device: the plan's, but what ComfyUI asked back stays away until there is room again."""
        wanted = {placement.block.name: placement.device for placement in plan.placements}
        if self._demoted_bytes or self._held_back_bytes:
            compute = plan.compute_device
            is_auto = self.options.request.mode is AllocationMode.AUTO
            room = weight_budget_bytes if is_auto else self.host.registry.free_bytes(compute)
            if self._held_back_bytes or room < self._demoted_bytes:
                return {
                    b.name: self.distribution.device_of(b) if wanted[b.name] in self._computing else wanted[b.name]
                    for b in self.distribution.parts
                }
            self._demoted_bytes = 0
        return wanted

    def _shrink_to_grant(self, weight_budget_bytes: float) -> None:
        """Give back what ComfyUI wants back. Only `auto` follows its estimate; a split that the user sized stands."""
        if weight_budget_bytes < 0 and self.options.request.mode is AllocationMode.AUTO:
            self.demote(int(-weight_budget_bytes))
