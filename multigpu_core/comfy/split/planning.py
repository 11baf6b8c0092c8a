"""Make the plans of one model: the draft once, and the plan of each load after freeing memory on the donors.

draft    on empty devices: answers ComfyUI's question for the model's size, refuses at the node what can never fit
plan     on the devices as they are, within the limits that earlier loads ran into
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from torch import nn

from multigpu.multigpu_core.allocation import (
    AllocationMode,
    AllocationPlan,
    AllocationRequest,
    Inventory,
    PlanError,
    StepPrediction,
    expected_step,
)
from multigpu.multigpu_core.comfy.host.host import Host
from multigpu.multigpu_core.devices import DeviceInfo, HardwareProfile

from .load_oom import LoadOutOfMemoryError, Shortage

GIB = 1 << 30


class PlanAllocation(Protocol):
    """The plan-allocation hook as this room calls it."""

    def __call__(
        self,
        *,
        inventory: Inventory,
        request: AllocationRequest,
        devices: Sequence[DeviceInfo],
        reserve_bytes: Mapping[str, int],
        profile: HardwareProfile,
        draft: bool,
    ) -> AllocationPlan: ...


MakeRoom = Callable[[int, str, nn.Module], None]
"""Frees that many bytes on a device by unloading other models than the given one."""


class Planning:
    """The plans of one model for one request. `limits` are the most bytes that fit on a device, by experience."""

    def __init__(self, request: AllocationRequest, host: Host, plan: PlanAllocation, make_room: MakeRoom) -> None:
        self.request = request
        self.limits: dict[str, int] = {}
        self._host = host
        self._plan_allocation = plan
        self._make_room = make_room
        self._draft: tuple[tuple[Inventory, HardwareProfile], AllocationPlan] | None = None

    def draft(self, inventory: Inventory) -> AllocationPlan:
        """The plan as it would be on empty devices: made once, and again for another inventory or profile."""
        profile = self._host.profile
        known = inventory, profile
        if self._draft is None or self._draft[0] != known:
            infos = (self._host.registry.info(name) for name in self._device_names())
            empty = [replace(info, free_bytes=info.total_bytes) for info in infos]
            plan = self._plan_allocation(
                inventory=inventory,
                request=self.request,
                devices=empty,
                reserve_bytes={},
                profile=profile,
                draft=True,
            )
            self._draft = known, plan
        return self._draft[1]

    def plan(
        self, inventory: Inventory, module: nn.Module, held: Mapping[str, int], weight_budget_bytes: float
    ) -> AllocationPlan:
        """The plan for the devices as they are, after freeing memory on the donors.

        `held` are the bytes that the model occupies already, by device name.
        """
        request = self.request
        if request.mode is not AllocationMode.AUTO:
            draft = self.draft(inventory)
            wanted = dict(draft.bytes_by_device)
            wanted |= dict.fromkeys(draft.replica_devices, draft.compute_bytes + draft.staging_bytes)
            for device, size in wanted.items():
                if device != request.compute_device:  # ComfyUI has made room there already
                    self._make_room(size - held.get(device, 0), device, module)
        reserve = {}
        if request.mode is AllocationMode.AUTO:
            granted = weight_budget_bytes + held.get(request.compute_device, 0)
            reserve[request.compute_device] = self._host.inference_reserve_bytes(request.compute_device, granted)
        devices = self._host.devices_for(self._device_names(), held, self.limits)
        return self._plan_allocation(
            inventory=inventory,
            request=request,
            devices=devices,
            reserve_bytes=reserve,
            profile=self._host.profile,
            draft=False,
        )

    def predict(self, plan: AllocationPlan) -> StepPrediction | None:
        """What a step is expected to take, where the machine's speeds are known."""
        return expected_step(plan, self._host.profile)

    def refusal(
        self, shortage: Shortage, inventory: Inventory, plan: AllocationPlan, held: Mapping[str, int]
    ) -> LoadOutOfMemoryError:
        """The error for a written-out split that lacked memory, with the string of a plan that would fit."""
        compute = self.request.compute_device
        others = dict.fromkeys(share.device for share in self.request.shares if share.device not in (compute, "cpu"))
        bent = replace(
            self.request,
            mode=AllocationMode.VIRTUAL_VRAM,
            shares=(),
            virtual_vram_bytes=inventory.total_bytes - plan.compute_bytes,
            donors=(*others, "cpu"),
        )
        limits = {shortage.device: shortage.placed_bytes}
        devices = self._host.devices_for(self._device_names(), held, limits)
        try:
            fitting = self._plan_allocation(
                inventory=inventory,
                request=bent,
                devices=devices,
                reserve_bytes={},
                profile=self._host.profile,
                draft=True,
            )
        except PlanError:
            return LoadOutOfMemoryError(shortage, "")
        return LoadOutOfMemoryError(shortage, fitting.expert_string)

    def _device_names(self) -> tuple[str, ...]:
        """The devices that the request may use; no other is touched, not even to ask for its memory."""
        request = self.request
        if request.mode is AllocationMode.AUTO:
            return self._host.registry.names()
        named = [request.compute_device, *(share.device for share in request.shares), *request.donors, "cpu"]
        return tuple(dict.fromkeys(named))


def setting_for(request: AllocationRequest, bytes_by_device: Mapping[str, int]) -> str:
    """What a user sets to get by intent what a loaded model came to."""
    compute = request.compute_device
    if request.mode is AllocationMode.VIRTUAL_VRAM:
        offloaded = sum(size for device, size in bytes_by_device.items() if device != compute)
        return f"virtual_vram_gb to {math.ceil(10 * offloaded / GIB) / 10}"
    sizes = {compute: bytes_by_device.get(compute, 0), **bytes_by_device}
    string = ";".join(f"{device},{size}b" for device, size in sizes.items())
    return f'expert_mode_allocations to "{string}"'
