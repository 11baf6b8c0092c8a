"""Lets a donor compute the blocks that it stores: activations travel, weights stay.

Each relayed block has one or more called modules. A pre-hook sends the module's arguments to the donor and makes the
donor the current device; a hook after it, which also runs after an exception, hands the result back:

    compute   block 0 ─┐                          ┌─▶ block 4          one leg: blocks 1 to 3, two hops
    donor              └─▶ block 1 ─ 2 ─ block 3 ─┘

Where the next block is a donor's, too, the activations stay there (leg.py). Which block is next is learned as they are
called; if another one is called, its own hook brings home what it needs. Everything else with weights is hooked for
that reason: heads and resident blocks end a leg that was expected to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from multigpu.multigpu_core.devices import DeviceRegistry

from .called_modules import called_modules, slots_by_called_module
from .constants import Constants
from .hops import Hops
from .leg import Leg
from .ping_pong import PingPong
from .suspendable_hook import SuspendableHook
from .tensor_slots import TensorSlot
from .visit import Visit


@dataclass(eq=False)
class _Stop:
    """A called module: where it computes, and which one was called after it the last time."""

    device: torch.device
    scope: Callable[[], AbstractContextManager[object]]
    """Makes the device current."""
    next: _Stop | None = None
    inner: list[SuspendableHook] = field(default_factory=list)
    """Off while the module runs."""
    hooks_exit: bool = False
    """Whether the hook that follows its forward is still to be made: calls past the outer module are rare."""


@dataclass(eq=False)
class _Running:
    """The relayed module that is running."""

    module: nn.Module
    stop: _Stop
    visit: Visit
    device_scope: AbstractContextManager[object]
    depth: int = 1


class Relay:
    """Hooks on one model; without `attach`, or after `detach`, the model has none of ours."""

    def __init__(self, registry: DeviceRegistry, compute_device: str) -> None:
        self._registry = registry
        self._hops = Hops(registry)
        self._leg = Leg(registry.torch_device(compute_device), self._hops)
        self._compute_device = compute_device
        self._constants = Constants(self._hops)
        self.ping_pong: PingPong | None = None
        """Is told of every change from one card to another."""
        self._running: _Running | None = None
        self._last: _Stop | None = None
        self._is_compiled = False
        self._handles: list[RemovableHandle | SuspendableHook] = []

    def attach(
        self, module: nn.Module, blocks: Mapping[str, tuple[TensorSlot, ...]], relayed: Mapping[str, str]
    ) -> None:
        """Relay the blocks in `relayed`, which says on which device each computes, and no others, from now on.

        `blocks` has the slots of every block by name; the weights of relayed ones are on their devices already.
        """
        self.detach()
        if not relayed:
            return
        paths = dict(module.named_modules())
        for name, slots in blocks.items():
            device = relayed.get(name, self._compute_device)
            for called, of_called in slots_by_called_module(paths.get(name), slots):
                stop = _Stop(self._registry.torch_device(device), self._registry.device_scopes(device))
                if name in relayed:
                    self._hook(called, stop, of_called)
                else:
                    self._watch(called, stop)
        for called in called_modules(module):
            end = _uncompiled(self._end_step)
            self._handles.append(called.register_forward_pre_hook(self._note_compilation, prepend=True))
            self._handles.append(called.register_forward_pre_hook(_uncompiled(self._begin_step), prepend=True))
            self._handles.append(called.register_forward_hook(end, always_call=True))

    def detach(self) -> None:
        self.settle()
        self._constants = Constants(self._hops)
        self.ping_pong = None
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def settle(self) -> None:
        """Undo what a forward that was broken off left behind: torch calls no hook after what is no Exception."""
        if self._running is not None:
            self._leave(self._running, None)
        self._leg.end()
        self._constants.end_step(is_complete=False)
        self._last = None

    def _hook(self, module: nn.Module, stop: _Stop, slots: Iterable[TensorSlot]) -> None:
        self._hook_exit(module)
        self._handles.append(self._hook_entry(module, stop))
        for inner in _owners(slots):
            if inner is not module:  # for callers that reach past the module's own forward
                stop.inner.append(self._hook_entry(inner, _Stop(stop.device, stop.scope, hooks_exit=True)))
        self._handles += stop.inner

    def _hook_entry(self, module: nn.Module, stop: _Stop) -> SuspendableHook:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
            if self._running is not None:
                self._running.depth += module is self._running.module
                return None
            if stop.hooks_exit:
                stop.hooks_exit = False
                self._hook_exit(module)
            return self._enter(module, stop, args, kwargs)

        return SuspendableHook(module, _uncompiled(enter), with_kwargs=True)

    def _hook_exit(self, module: nn.Module) -> None:
        def leave(module: nn.Module, args: Any, output: Any) -> Any:
            running = self._running
            if running is None or running.module is not module:
                return None
            running.depth -= 1
            return None if running.depth else self._leave(running, output)

        leave = _uncompiled(leave)
        self._handles.append(module.register_forward_hook(leave, always_call=True, prepend=True))

    def _watch(self, module: nn.Module, stop: _Stop) -> None:
        def arrive(module: nn.Module, args: Any) -> None:
            if self._running is None:
                self._follow(stop)
                here = self._end_chunk_before(None)
                self._leg.end()
                self._begin_chunk_after(here)

        self._handles.append(module.register_forward_pre_hook(_uncompiled(arrive), prepend=True))

    def _enter(self, module: nn.Module, stop: _Stop, args: Any, kwargs: Any) -> Any:
        self._follow(stop)
        here = self._end_chunk_before(stop.device)
        self._leg.device = stop.device
        visit = Visit(self._leg, self._constants, stop.device)
        scope = stop.scope()
        scope.__enter__()
        self._running = _Running(module, stop, visit, scope)
        SuspendableHook.suspend(stop.inner)
        arguments = visit.arrive(args, kwargs)
        self._begin_chunk_after(here)
        return arguments

    def _leave(self, running: _Running, output: Any) -> Any:
        self._running = None
        SuspendableHook.resume(running.stop.inner)
        running.device_scope.__exit__(None, None, None)
        following = running.stop.next
        goes_on = following is not None and following.device != self._leg.compute
        stays = goes_on and output is not None and not self._is_compiled
        here = self._leg.device if stays else self._end_chunk_before(None)
        output = running.visit.leave(output, stays=stays)
        if not stays:
            self._leg.device = None
            self._begin_chunk_after(here)
        return output

    def _end_chunk_before(self, device: torch.device | None) -> torch.device | None:
        """Say that the chunk here ends if the forward goes on elsewhere; hops are issued between end and beginning.

        A device of None is the compute device. Returns the one where the forward is.
        """
        here = self._leg.device
        if device != here and self.ping_pong is not None:
            self.ping_pong.end_chunk(here or self._leg.compute)
        return here

    def _begin_chunk_after(self, before: torch.device | None) -> None:
        if before != self._leg.device and self.ping_pong is not None:
            self.ping_pong.begin_chunk(self._leg.device or self._leg.compute)

    def _follow(self, stop: _Stop) -> None:
        if self._last is not None:
            self._last.next = stop
        self._last = stop

    def _note_compilation(self, module: nn.Module, args: Any) -> None:
        """A model that is compiled as a whole knows no carried tensors: each block hands its result back."""
        self._is_compiled = torch.compiler.is_compiling()

    def _begin_step(self, module: nn.Module, args: Any) -> None:
        self.settle()
        if self.ping_pong is not None:
            self.ping_pong.begin_chunk(self._leg.compute)

    def _end_step(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.ping_pong is not None:
            self.ping_pong.end_chunk(self._leg.device or self._leg.compute)
        self._leg.end()
        self._constants.end_step(is_complete=output is not None)
        self._last = None


def _uncompiled(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A compiled block computes from the tensors that it is given; how they come to it is not part of it."""
    return torch.compiler.disable(hook)  # type: ignore[no-untyped-call, no-any-return]


def _owners(slots: Iterable[TensorSlot]) -> Iterator[nn.Module]:
    yield from {id(slot.owner): slot.owner for slot in slots}.values()
