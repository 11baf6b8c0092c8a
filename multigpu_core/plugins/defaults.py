"""The defaults when no plugin answers: our planner, and an unload policy that does what the nodes ask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from multigpu import hookimpl
from multigpu.multigpu_core.contract.unloading import LoadedModelInfo, UnloadReason

if TYPE_CHECKING:
    from multigpu.multigpu_core.allocation import AllocationPlan, AllocationRequest, Inventory
    from multigpu.multigpu_core.devices import DeviceInfo, HardwareProfile


class DefaultPlanner:
    """The last resort of plan allocation. `staging` is the setting of that name."""

    def __init__(self, staging: Literal["auto", "small", "large"] | int = "auto") -> None:
        self._staging = staging

    @hookimpl(trylast=True)
    def multigpu_plan_allocation(
        self,
        inventory: Inventory,
        request: AllocationRequest,
        devices: Sequence[DeviceInfo],
        reserve_bytes: Mapping[str, int],
        profile: HardwareProfile,
    ) -> AllocationPlan:
        # Imports torch, which most commands of the command line do without.
        from multigpu.multigpu_core.allocation import plan_with_profile

        return plan_with_profile(inventory, request, devices, reserve_bytes, profile, self._staging)


class KeepWhatNodesKeep:
    """Models whose node says `keep_loaded` stay, unless their memory is needed; nothing else is ever kept."""

    @hookimpl
    def multigpu_unload_policy(self, models: Sequence[LoadedModelInfo], reason: UnloadReason) -> Iterable[int]:
        if reason is UnloadReason.MEMORY_PRESSURE:
            return []
        return [model.key for model in models if model.is_ours and model.keep_loaded]
