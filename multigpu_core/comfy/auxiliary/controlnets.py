"""ControlNets on a device of their own: their inputs are copied there, and their residuals come back.

    model's device      latent, prompt ─┐                        ┌─▶ residuals ─▶ blocks
    ControlNet's                        └─▶ hint ─▶ ControlNet ──┘

A control is made of a subclass of whatever class it has: ComfyUI copies controls, chains them, and asks each alike.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from multigpu.multigpu_core.comfy.host.compatibility import controlnet
from multigpu.multigpu_core.comfy.host.scope import Devices, device_scope
from multigpu.multigpu_core.execution import replace_tensors

if TYPE_CHECKING:
    from comfy.controlnet import ControlBase as ControlClass
else:
    ControlClass = object


class ControlElsewhere(ControlClass):  # type: ignore[misc]
    """Mixin over a control's class; `compute_where_loaded` makes instances."""

    def get_control(self, x_noisy: Tensor, t: Tensor, cond: Any, *args: Any) -> Any:
        """ComfyUI's: the residuals for a latent, on the latent's device."""
        here, home = _device_of(self), x_noisy.device
        compute_where_loaded(self.previous_controlnet)
        if here is None or here == home:
            return super().get_control(x_noisy, t, cond, *args)
        there = _Moved(here)
        control = super().get_control(there(x_noisy), there(t), replace_tensors(cond, there), *args)
        return replace_tensors(control, _Moved(home))

    def pre_run(self, model: Any, *args: Any) -> None:
        """ComfyUI's, before a sampling. Control LoRAs are put together here, of the model's own weights."""
        home = model.current_patcher.load_device
        with device_scope(Devices(home)):
            super().pre_run(model, *args)
        for name, value in self.extra_args.items():
            if isinstance(value, nn.Module) and _device_of(self) != home:
                self.extra_args[name] = _AtHome(value, home)

    def copy(self) -> Any:
        copied = compute_where_loaded(super().copy())
        if "device" in vars(self):  # a T2I adapter's copy would be ComfyUI's own choice
            copied.device = self.device
        return copied


def compute_where_loaded(value: Any) -> Any:
    """Let a control compute on its own device for a model on any other; returns `value`, whatever it is."""
    if isinstance(value, controlnet.ControlBase) and not isinstance(value, ControlElsewhere):
        base: type = type(value)
        value.__class__ = _class_elsewhere(base)
    return value


@cache
def _class_elsewhere(base: type) -> type:
    return type(base.__name__, (ControlElsewhere, base), {})


def _device_of(control: Any) -> torch.device | None:
    """Where a control computes; None for one that is made of the model's weights, and computes where that does."""
    wrapped = vars(control).get("control_model_wrapped")
    device: torch.device | None = wrapped.load_device if wrapped is not None else vars(control).get("device")
    return device


class _Moved:
    """Brings tensors to a device; one that is met twice stays one tensor."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._moved: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        if id(tensor) not in self._moved:
            self._moved[id(tensor)] = tensor, tensor.to(self._device)
        return self._moved[id(tensor)][1]


class _AtHome:
    """The model's own module, for a control that calls parts of it: they compute where the model's weights are."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._module = module
        self._device = device

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        return self._called(value) if callable(value) else value

    def _called(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            asked_from: list[torch.device] = []

            def bring(tensor: Tensor) -> Tensor:
                asked_from.append(tensor.device)
                return tensor.to(self._device)

            args, kwargs = replace_tensors((args, kwargs), bring)
            result = function(*args, **kwargs)
            return replace_tensors(result, _Moved(asked_from[0])) if asked_from else result

        return call
