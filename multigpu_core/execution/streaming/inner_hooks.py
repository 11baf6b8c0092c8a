"""Hooks on the modules inside an offloaded module, for callers that reach past the offloaded module's own forward.

They are off while the whole offloaded module is staged: a layer without hooks is called several times faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from multigpu.multigpu_core.execution.storage.tensor_slots import TensorSlot

from .offloaded_module import OffloadedModule
from .suspendable_hook import SuspendableHook

Copies = Callable[[OffloadedModule], list[torch.Tensor]]
"""Makes copies of an offloaded module's tensors on the compute device."""


class InnerHooks:
    """The hooks on one offloaded module's inner modules, each of which stages what that module itself holds.

    Nothing here keeps a module alive: a model is freed with its last patcher, not by some later garbage collection.
    """

    def __init__(self, outer: nn.Module, slots: Sequence[TensorSlot], copies: Copies) -> None:
        self._hooks: list[_InnerHook] = []
        owners: dict[int, tuple[nn.Module, list[TensorSlot]]] = {}
        for slot in slots:
            owners.setdefault(id(slot.owner), (slot.owner, []))[1].append(slot)
        for owner, of_owner in owners.values():
            if owner is not outer:
                self._hooks.append(_InnerHook(owner, OffloadedModule(of_owner), copies))
        self._before = [hook.before for hook in self._hooks]

    def suspend(self) -> None:
        SuspendableHook.suspend(self._before)

    def resume(self) -> None:
        SuspendableHook.resume(self._before)

    def settle(self) -> None:
        """Undo what a forward that was broken off left behind."""
        for hook in self._hooks:
            hook.offloaded.settle()

    def remove(self) -> None:
        self.settle()
        for hook in self._hooks:
            hook.remove()


class _InnerHook:
    """The pre-hook on one module. The hook that follows a forward is there for such forwards alone."""

    def __init__(self, module: nn.Module, offloaded: OffloadedModule, copies: Copies) -> None:
        self.offloaded = offloaded
        self._after: list[RemovableHandle] = []
        self.before = SuspendableHook(module, partial(_stage, offloaded, copies, self._after), first=True)

    def remove(self) -> None:
        self.before.remove()
        for handle in self._after:
            handle.remove()


def _stage(
    offloaded: OffloadedModule, copies: Copies, after: list[RemovableHandle], module: nn.Module, args: Any
) -> None:
    if not after:
        after.append(module.register_forward_hook(partial(_unstage, offloaded), always_call=True))
    if offloaded.enter():
        offloaded.look_again()
        offloaded.stage(copies(offloaded))


def _unstage(offloaded: OffloadedModule, module: nn.Module, args: Any, output: Any) -> None:
    if offloaded.leave():
        offloaded.unstage()
