"""Makes a model's device the current one while the model is called.

ComfyUI casts weights on streams of their own and has the *current* device wait for them, and kernels of quantised
formats launch there. It makes the device of a diffusion model, text encoder or VAE current, and of no other model.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from multigpu.multigpu_core.comfy.host.loader_outputs import patcher_of

if TYPE_CHECKING:
    ModuleClass = nn.Module
else:
    ModuleClass = object


class OnItsDevice(ModuleClass):
    """Mixin over a model's class; `current_while_called` makes instances."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with made_current(self.device):
            return super().forward(*args, **kwargs)


def current_while_called(value: Any) -> Any:
    """Let the model that a loader's output is or holds be called on its device; returns `value`, whatever it is."""
    patcher = patcher_of(value)
    if patcher is None or isinstance(patcher.model, OnItsDevice):
        return value
    base: type = type(patcher.model)
    if base.forward is not nn.Module.forward:  # type: ignore[attr-defined]
        patcher.model.__class__ = _class_on_its_device(base)
    return value


def made_current(device: object) -> AbstractContextManager[object]:
    """The device is the current one until the block is left, where its kind knows such a thing."""
    if not isinstance(device, torch.device) or device.index is None:
        return nullcontext()
    make_current: Callable[[torch.device], AbstractContextManager[object]] | None
    make_current = getattr(getattr(torch, device.type, None), "device", None)
    return make_current(device) if make_current is not None else nullcontext()


@cache
def _class_on_its_device(base: type) -> type:
    return type(base.__name__, (OnItsDevice, base), {"__module__": base.__module__})
