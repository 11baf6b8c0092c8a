"""The panel's data: every device, and every model that is loaded, with the place of each of its blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from multigpu.multigpu_core.allocation import AllocationPlan
from multigpu.multigpu_core.allocation.planner.plan import block_shares
from multigpu.multigpu_core.comfy.any_node.kept.kept_models import KeptModel
from multigpu.multigpu_core.comfy.host.compatibility import model_management as mm
from multigpu.multigpu_core.comfy.host.prompt_worker import PromptWorker
from multigpu.multigpu_core.comfy.memory.tracked_models import TrackedModel
from multigpu.multigpu_core.comfy.nodes.loading import LoadContext
from multigpu.multigpu_core.comfy.split.placement import ModelPlacement
from multigpu.multigpu_core.devices import DeviceActivity, DeviceInfo


def panel_state(context: LoadContext, worker: PromptWorker, kept: Iterable[KeptModel]) -> dict[str, Any]:
    """One moment, as JSON; sizes in bytes, times in seconds. Reads no tensor: it may be asked for while one samples.

    `kept_by_nodes` are models that nodes keep by themselves, as they were after their node's last call; ComfyUI does
    not manage them. `worker_fault` is why no prompt can run until ComfyUI is restarted, None where its prompt worker
    is alive.
    """
    # Held while they are looked at: ComfyUI refers to models weakly, and the worker may let go of one at any moment.
    held = [(loaded, loaded.model) for loaded in list(mm.current_loaded_models)]
    known = [patcher.model for _, patcher in held if patcher is not None]
    return {
        "busy": worker.is_prompt_running,
        "worker_fault": worker.fault,
        "speeds_measured": context.host.profile.is_measured,
        "devices": [
            _device(info, context.host.registry.activity(info.name))
            for info in context.host.registry.survey(wake=False).devices
        ],
        "models": [_model(context, loaded, patcher) for loaded, patcher in held if patcher is not None],
        "kept_by_nodes": [_kept(each) for each in kept if all(each.module is not model for model in known)],
    }


def _kept(kept: KeptModel) -> dict[str, Any]:
    name = type(kept.module).__name__
    return {"name": name, "node_class": kept.node_id, "bytes_by_device": dict(kept.bytes_by_device)}


def _device(info: DeviceInfo, activity: DeviceActivity) -> dict[str, Any]:
    return {
        "name": info.name,
        "title": info.marketing_name,
        "total_bytes": info.total_bytes,
        "free_bytes": info.free_bytes,
        **asdict(activity),
    }


def _model(context: LoadContext, loaded: Any, patcher: Any) -> dict[str, Any]:
    tracked = context.models.of(loaded)
    placement = tracked.placement() if tracked is not None and tracked.placement is not None else None
    state = {"name": type(patcher.model).__name__, "ours": _tracked(tracked)}
    plan = placement.distribution.plan if placement is not None else None
    if placement is not None and plan is not None:
        return state | _split(placement, plan)
    device = context.host.registry.name_of(loaded.device)
    return state | {"bytes_by_device": {device: patcher.loaded_size()}, "split": None}


def _tracked(tracked: TrackedModel | None) -> dict[str, Any] | None:
    if tracked is None:
        return None
    node_class, node_id = tracked.node
    return {
        "key": tracked.key,
        "keep_loaded": tracked.keep_loaded,
        "files": list(tracked.files),
        "node_class": node_class,
        "node_id": node_id,
    }


def _split(placement: ModelPlacement, plan: AllocationPlan) -> dict[str, Any]:
    distribution = placement.distribution
    devices, steps, prediction = distribution.served_devices, distribution.record, placement.prediction
    placed = [replace(each, device=devices.get(each.block.name, each.device)) for each in plan.placements]
    sizes: dict[str, int] = dict.fromkeys(plan.bytes_by_device, 0)
    for each in placed:
        sizes[each.device] = sizes.get(each.device, 0) + each.block.size_bytes
    if distribution.replicas is not None:
        for device, size in distribution.replicas.bytes_by_device.items():
            sizes[device] = sizes.get(device, 0) + size
    split = {
        "compute_device": plan.compute_device,
        "strategy": plan.strategy.name,
        "expert_string": plan.expert_string,
        "staging_bytes": distribution.staging_bytes,
        "warnings": list(plan.warnings),
        "blocks": [
            {"name": share.name, "bytes": share.size_bytes, "device": share.device, "relayed": share.relayed}
            for share in block_shares(placed)
        ],
        "step_seconds": steps.step_seconds,
        "predicted_seconds": prediction.step_seconds if prediction is not None else None,
        "step_bytes": steps.whole_step_bytes,
    }
    return {"bytes_by_device": sizes, "split": split}
