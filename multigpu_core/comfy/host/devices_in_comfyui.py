"""The device registry as this ComfyUI may use it."""

from __future__ import annotations

from collections.abc import Sequence

import comfy.model_management as mm
from comfy.cli_args import args

from multigpu.multigpu_core.devices import DeviceBackend, DeviceRegistry, default_registry

HINTS = {
    "cuda": "ComfyUI may hide it: start ComfyUI with --cuda-device all, or without --cuda-device.",
}

HIDDEN_BY_CUDA_DEVICE = ("cuda", "npu")
"""The families that ComfyUI's --cuda-device hides, by the environment variables that it sets."""


def comfyui_registry(more_backends: Sequence[DeviceBackend] = ()) -> DeviceRegistry:
    """All devices, those of `more_backends` included, restricted as ComfyUI's own flags restrict it."""
    registry = default_registry(hints=HINTS, more_backends=more_backends)
    if mm.cpu_mode():
        return registry.restricted(("cpu",), "ComfyUI was started with --cpu: leave that flag out to use accelerators.")
    if mm.is_directml_enabled():
        chosen = registry.name_of(mm.get_torch_device())
        reason = f"ComfyUI was started with --directml and uses {chosen}: --directml N chooses another."
        return registry.restricted(("cpu", chosen), reason)
    if args.cuda_device not in (None, "all"):
        hint = f"ComfyUI was started with --cuda-device {args.cuda_device}, which hides other GPUs."
        return default_registry(hints=dict.fromkeys(HIDDEN_BY_CUDA_DEVICE, hint), more_backends=more_backends)
    return registry
