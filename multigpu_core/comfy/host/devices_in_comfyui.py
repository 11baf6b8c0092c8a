"""The device registry as this ComfyUI may use it."""

from __future__ import annotations

from collections.abc import Container, Sequence

from multigpu.multigpu_core.comfy.host.compatibility import Feature, flag
from multigpu.multigpu_core.comfy.host.compatibility import model_management as mm
from multigpu.multigpu_core.devices import DeviceBackend, DeviceRegistry, default_registry

HINTS = {
    "cuda": "ComfyUI may hide it: start ComfyUI with --cuda-device all, or without --cuda-device.",
}

CPU_ONLY = "ComfyUI was started with --cpu: leave that flag out to use accelerators."
HIDDEN_BY_CPU = ("cuda", "npu", "xpu", "mlu", "mps")
HIDDEN_BY_CUDA_DEVICE = ("cuda", "npu")
"""The families that ComfyUI's --cuda-device hides, by the environment variables that it sets."""


def comfyui_registry(more_backends: Sequence[DeviceBackend] = (), missing: Container[Feature] = ()) -> DeviceRegistry:
    """All devices, those of `more_backends` included, restricted as ComfyUI's own flags restrict it.

    The flags among the `missing` features count as not given.
    """
    if Feature.CPU_FLAG not in missing and mm.cpu_mode():
        # Also of a device that torch does not find: under this flag --cuda-device would change nothing.
        hints = dict.fromkeys(HIDDEN_BY_CPU, CPU_ONLY)
        return default_registry(hints=hints, more_backends=more_backends).restricted(("cpu",), CPU_ONLY)
    registry = default_registry(hints=HINTS, more_backends=more_backends)
    if Feature.DIRECTML_FLAG not in missing and mm.is_directml_enabled():
        chosen = registry.name_of(mm.get_torch_device())
        reason = f"ComfyUI was started with --directml and uses {chosen}: --directml N chooses another."
        return registry.restricted(("cpu", chosen), reason)
    if (chosen := flag("cuda_device")) not in (None, "all"):
        hint = f"ComfyUI was started with --cuda-device {chosen}, which hides other GPUs."
        return default_registry(hints=dict.fromkeys(HIDDEN_BY_CUDA_DEVICE, hint), more_backends=more_backends)
    return registry
