"""A model that computes on another card than ComfyUI's own has its card as the current one while it computes.

ComfyUI's casts of weights and the kernels of quantised formats go by the current device.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ..support.in_process import ComfyUI
from ..support.outputs import computed, held_model

LOADERS = {
    "CLIPVisionLoader": {"clip_name": "vision.safetensors"},
    "ControlNetLoader": {"control_net_name": "flux.safetensors"},
}


def _current_devices_inside(comfyui: ComfyUI, output: Any) -> set[int]:
    """The current devices at every call inside of an output's model."""
    seen: set[int] = set()
    torch_device = comfyui.machine.module

    def note(*_: Any) -> None:
        seen.add(torch_device.current_device())

    handles = [child.register_forward_pre_hook(note) for child in held_model(output).children()]
    computed(comfyui, [output])
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("variant", ["MultiGPU", "DisTorch2MultiGPU"])
def test_a_model_computes_with_its_device_as_the_current_one(comfyui: ComfyUI, loader: str, variant: str) -> None:
    node = f"{loader}{variant}"
    inputs = {"device": "npu:1"}
    if "compute_device" in comfyui.nodes.NODE_CLASS_MAPPINGS[node].INPUT_TYPES()["optional"]:
        inputs = {"compute_device": "npu:1"}
    if variant != "MultiGPU":
        inputs["expert_mode_allocations"] = "npu:1,50%;cpu,50%"
    (output,) = comfyui.run(node, **LOADERS[loader], **inputs)
    assert _current_devices_inside(comfyui, output) == {1}
    assert comfyui.machine.module.current_device() == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_or_an_interrupt_inside_of_it_leaves_comfyui_s_device_current(
    comfyui: ComfyUI, error: type[BaseException]
) -> None:
    (output,) = comfyui.run("CLIPVisionLoaderMultiGPU", clip_name="vision.safetensors", device="npu:1")

    def fail(*_: Any) -> None:
        raise error

    handle = next(iter(held_model(output).children())).register_forward_pre_hook(fail)
    with pytest.raises(error):
        computed(comfyui, [output])
    handle.remove()
    assert comfyui.machine.module.current_device() == 0
    assert all(value.isfinite().all() for value in computed(comfyui, [output])) and torch.is_inference_mode_enabled()
