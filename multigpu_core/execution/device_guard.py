"""Make a model's compute device the current one while the model runs.

Torch's own operators look at their tensors. Kernels that take raw pointers (quantised formats) launch on the current
device instead, and crash the process where that is another card without peer access.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from multigpu.multigpu_core.devices import DeviceRegistry
from multigpu.multigpu_core.execution.streaming.called_modules import called_modules


class _Entered(threading.local):
    """The scopes that this thread is in: the current device is one of a thread."""

    def __init__(self) -> None:
        self.scopes: list[ExitStack] = []


class CurrentDevice:
    """Hooks on the outermost called modules of one model."""

    def __init__(self, registry: DeviceRegistry, device: str) -> None:
        self._registry = registry
        self._device = device
        self._entered = _Entered()
        self._handles: list[RemovableHandle] = []

    def attach(self, module: nn.Module) -> None:
        """Hook the modules that are called now, and no others."""
        self.detach()
        for called in called_modules(module):
            # A compiled model is not to be compiled with how a device becomes the current one.
            enter, leave = map(torch.compiler.disable, (self._enter, self._leave))
            self._handles.append(called.register_forward_pre_hook(enter, prepend=True))
            self._handles.append(called.register_forward_hook(leave, always_call=True))

    def detach(self) -> None:
        self.settle()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def settle(self) -> None:
        """Make the device current that was so before a forward that was broken off."""
        while self._entered.scopes:
            self._entered.scopes.pop().close()

    def _enter(self, module: nn.Module, args: Any) -> None:
        scope = ExitStack()
        scope.enter_context(self._registry.device_scope(self._device))
        self._entered.scopes.append(scope)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._entered.scopes:  # a hook before ours may have raised
            self._entered.scopes.pop().close()
