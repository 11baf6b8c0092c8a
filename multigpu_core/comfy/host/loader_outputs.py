"""A loader's outputs: where their patchers are, how to move them to another device, and how to load them again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from multigpu.multigpu_core.comfy.host.compatibility import model_management as mm
from multigpu.multigpu_core.comfy.host.compatibility import model_patcher
from multigpu.multigpu_core.comfy.host.dynamic_vram import without_dynamic_vram

HOLDER_ATTRIBUTES = ("patcher", "control_model_wrapped")
"""Where objects that are no patchers hold theirs: CLIP, VAE, CLIP vision, audio and upscale models; ControlNets."""
ALL_BYTES = 1e30
"""What `free_memory` is asked for to unload everything: the number that ComfyUI's own unload_all_models uses."""
DEVICE_ATTRIBUTES = ("device", "load_device")
"""Where such objects remember the device a second time."""
PLAIN = (str, int, float, bool, type(None))
"""What a loader's inputs are where they name files and settings: it can be called with them again at any time."""


def map_outputs(result: Any, place: Callable[[int, Any], Any]) -> Any:
    """A loader's result with `place(index, output)` for each output; what else it holds, such as ui data, stays.

    Results are a tuple or list, a V1 node's dict with a ``result``, or a V3 node's NodeOutput.
    """
    if isinstance(result, dict):
        return {**result, "result": map_outputs(result["result"], place)} if "result" in result else result
    if isinstance(result, (tuple, list)):
        return tuple(place(index, output) for index, output in enumerate(result))
    if not getattr(result, "args", None):
        return result
    placed = copy.copy(result)
    placed.args = map_outputs(result.args, place)
    return placed


def with_output(result: Any, value: Any) -> Any:
    """A loader's result with one output more."""
    if isinstance(result, dict):
        return {**result, "result": with_output(result["result"], value)}
    if isinstance(result, (tuple, list)):
        return (*result, value)
    longer = copy.copy(result)
    longer.args = with_output(result.args, value)
    return longer


def patcher_of(value: Any) -> Any | None:
    """The patcher that a loader's output is or holds; None for what has none (a ControlLora, a missing CLIP)."""
    if isinstance(value, model_patcher.ModelPatcher):
        return value
    for attribute in HOLDER_ATTRIBUTES:
        held = getattr(value, attribute, None)
        if isinstance(held, model_patcher.ModelPatcher):
            return held
    return None


def with_plain_patcher(value: Any) -> Any:
    """The output with a patcher that is not dynamic: DynamicVRAM's patchers decide by themselves where weights lie.

    Raises:
        RuntimeError: the loader that made it left no way to load the model again.
    """
    patcher = patcher_of(value)
    is_dynamic = getattr(patcher, "is_dynamic", None)  # a ComfyUI without DynamicVRAM need not have it
    if patcher is None or is_dynamic is None or not is_dynamic():
        return value
    with without_dynamic_vram():
        plain = patcher.clone(disable_dynamic=True)
    plain.parent = None  # a clone of it would keep the dynamic model in memory, too
    if value is patcher:
        return plain
    for attribute, held in vars(value).items():
        if held is patcher:
            setattr(value, attribute, plain)
        elif (
            held is patcher.model
        ):  # the same model under the holder's own name: first_stage_model, cond_stage_model, …
            setattr(value, attribute, plain.model)
    return value


def unload_model(patcher: Any) -> None:
    """Unload a patcher's model, and no other, if it is loaded."""
    loaded_models = [loaded for loaded in mm.current_loaded_models if loaded.model is not None]
    others = [loaded for loaded in loaded_models if not patcher.is_clone(loaded.model)]
    for device in {loaded.device for loaded in loaded_models if loaded not in others}:
        mm.free_memory(ALL_BYTES, device, keep_loaded=others)


def retarget(value: Any, device: torch.device) -> Any:
    """Let an output compute on `device` from its next load on; returns the output to use."""
    if device.type == "cpu":
        value = with_plain_patcher(value)  # DynamicVRAM works on accelerators only
    if (patcher := patcher_of(value)) is not None:
        if patcher.load_device != device:
            unload_model(patcher)
        patcher.load_device = device
        if device.type == "cpu":
            patcher.offload_device = device
        elif hasattr(patcher, "register_load_device"):
            patcher.register_load_device(device)
    set_devices(value, device)
    return value


def set_devices(value: Any, device: torch.device) -> None:
    """Keep an output's own device fields in step with its patcher's."""
    if isinstance(value, (model_patcher.ModelPatcher, torch.nn.Module)):  # these know by themselves
        return
    fields = vars(value) if hasattr(value, "__dict__") else {}  # a property answers for itself
    for attribute in DEVICE_ATTRIBUTES:
        if isinstance(fields.get(attribute), torch.device):
            setattr(value, attribute, device)


@dataclass(frozen=True)
class Reload:
    """Calls a loader again and gives the patcher that one of its outputs is or holds.

    ComfyUI's own device nodes and its CFG split give each device a model that was loaded afresh. A loader says how in
    `cached_patcher_init` of its patcher: a function, its arguments, and the place in the result if it has several.
    """

    load: Callable[[], Any]
    output: int

    def __call__(self, disable_dynamic: bool = False) -> Any:
        """A fresh patcher; one that is not DynamicVRAM's where ComfyUI wants that."""
        found: list[Any] = []
        with without_dynamic_vram() if disable_dynamic else nullcontext():
            map_outputs(self.load(), lambda index, value: found.append(value) if index == self.output else None)
        return patcher_of(found[0])


def make_rebuildable(value: Any, output: int, load: Callable[[], Any], inputs: Mapping[str, Any]) -> None:
    """Let ComfyUI get the model of a loader's output again by `load`, unless the loader has said how itself.

    A loader that was given a model of another node cannot be called again: its `inputs` may have changed since.
    """
    patcher = patcher_of(value)
    if patcher is None or getattr(patcher, "cached_patcher_init", ()) is not None:
        return
    if all(isinstance(given, PLAIN) for given in inputs.values()):
        patcher.cached_patcher_init = (Reload(load, output), ())
