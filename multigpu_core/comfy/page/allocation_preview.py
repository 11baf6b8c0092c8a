"""Plan a split before its model is loaded, from its files' headers: the allocation editor asks at each drag."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from multigpu.multigpu_core.allocation import (
    AllocationMode,
    AllocationWidgets,
    Inventory,
    PlanError,
    expected_step,
    request_from_widgets,
)
from multigpu.multigpu_core.allocation.formats.header_error import HeaderError
from multigpu.multigpu_core.allocation.inventory.as_loaded import LoadedAs, inventory_as_loaded
from multigpu.multigpu_core.allocation.inventory.checkpoint_parts import CheckpointPart, CheckpointPartError
from multigpu.multigpu_core.allocation.inventory.of_file import Formats
from multigpu.multigpu_core.allocation.language.errors import ALLOCATION_STRING, AllocationError
from multigpu.multigpu_core.allocation.planner.plan_report import plan_report
from multigpu.multigpu_core.comfy.host.comfyui_names import MissingNameError
from multigpu.multigpu_core.comfy.host.host import Host
from multigpu.multigpu_core.comfy.nodes.model_files import UnknownFileError, model_file
from multigpu.multigpu_core.comfy.split.planning import PlanAllocation
from multigpu.multigpu_core.devices import DeviceError, DeviceInfo
from multigpu.multigpu_core.strategies.strategy import Strategy, UnknownStrategyError

Name = Annotated[str, Field(max_length=1000)]


class ModelFile(BaseModel):
    """A file as a node's input names it."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    input: Annotated[str, Field(max_length=100)]
    name: Name


class PreviewRequest(BaseModel):
    """The widgets of a split node, as they are now."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    files: Annotated[list[ModelFile], Field(min_length=1, max_length=8)]
    part: Literal["diffusion_model", "text_encoder", "vae"] | None = None
    """Of a checkpoint, the part that the widgets are about."""
    compute_device: Name
    virtual_vram_gb: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    donor_device: Name = "cpu"
    expert: Annotated[str, Field(max_length=4000)] = ""
    strategy: Name = Strategy.INTERLEAVE.name
    weight_dtype: Name = "default"


def preview(wanted: PreviewRequest, host: Host, plan: PlanAllocation) -> dict[str, Any]:
    """The plan as JSON, or why there is none: `error` with the span of the fault where it is in the expert string.

    The accelerators count as empty: before a load, other models make room.
    """
    try:
        inventory = _inventory(wanted, host.formats)
        request = request_from_widgets(_widgets(wanted, host), host.registry.resolve)
        devices = [_with_room(info) for info in host.registry.survey(wake=False).devices]
        reserve = {}
        if request.mode is AllocationMode.AUTO:
            reserve[request.compute_device] = host.inference_reserve_bytes(request.compute_device, 0)
        found = plan(
            inventory=inventory,
            request=request,
            devices=devices,
            reserve_bytes=reserve,
            profile=host.profile,
            draft=True,
        )
        return {
            **plan_report(found, expected_step(found, host.profile)),
            "total_bytes": inventory.total_bytes,
            "room_bytes": {info.name: info.free_bytes for info in devices},
        }
    except AllocationError as error:
        if error.what != ALLOCATION_STRING:
            return _refused(error.reason, suggestion=error.suggestion)
        start, end = error.position
        return _refused(error.reason, suggestion=error.suggestion, start=start, end=end)
    except HeaderError as error:
        return _refused(f"{error.path.name}: {error.field}: {error.reason}")
    except OSError as error:
        return _refused(f"{Path(str(error.filename or 'The file')).name}: {error.strerror or type(error).__name__}")
    except (
        PlanError, DeviceError, CheckpointPartError, UnknownFileError, UnknownStrategyError, MissingNameError
    ) as error:  # fmt: skip
        return _refused(str(error))


def _refused(message: str, **more: Any) -> dict[str, Any]:
    return {"fits": False, "error": {"message": message, **more}}


def _inventory(wanted: PreviewRequest, formats: Formats) -> Inventory:
    part = CheckpointPart(wanted.part) if wanted.part else None
    files = [model_file(file.name, file.input) for file in wanted.files]
    return inventory_as_loaded(files, LoadedAs(wanted.compute_device, wanted.weight_dtype, part), formats)


def _with_room(info: DeviceInfo) -> DeviceInfo:
    return info if info.name == "cpu" else replace(info, free_bytes=info.total_bytes)


def _widgets(wanted: PreviewRequest, host: Host) -> AllocationWidgets:
    return AllocationWidgets(
        wanted.compute_device,
        wanted.virtual_vram_gb,
        wanted.donor_device,
        wanted.expert,
        host.strategies.named(wanted.strategy),
    )
