"""Let a donor compute the blocks that it stores: activations travel, weights stay.

Each relayed block has one or more called modules. A pre-hook sends the module's arguments to the donor and makes the
donor the current device; a hook after it, which also runs after an exception, hands the result back:

    compute   block 0 ─┐                          ┌─▶ block 4          one remote run: blocks 1 to 3, two hops
    donor              └─▶ block 1 ─ 2 ─ block 3 ─┘

Where the next block is a donor's, too, the activations stay there (remote_activations.py). Which block is next is
learned as they are called; if another one is called, its own hook brings home what it needs. Everything else with
weights is hooked for that reason: heads and resident blocks end a remote run that was expected to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from multigpu.multigpu_core.devices import DeviceRegistry
from multigpu.multigpu_core.execution.device_copies import DeviceCopies
from multigpu.multigpu_core.execution.nested import replace_tensors
from multigpu.multigpu_core.execution.parallel.micro_batches import MicroBatches
from multigpu.multigpu_core.execution.storage.tensor_slots import TensorSlot
from multigpu.multigpu_core.execution.streaming.called_modules import called_modules, slots_by_called_module
from multigpu.multigpu_core.execution.streaming.inner_hooks import SuspendableHook

from .remote_activations import RemoteActivations
from .remote_call import RemoteCall
from .transfer_cache import Arguments, TransferCache


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
    call: RemoteCall
    device_scope: AbstractContextManager[object]
    depth: int = 1


@dataclass(eq=False)
class _Forward:
    """A forward on its way. Both halves of a step are so at the same time, and share nothing that is here."""

    remote: RemoteActivations
    cache: TransferCache
    running: _Running | None = None
    last: _Stop | None = None


class Relay:
    """Hooks on one model; without `attach`, or after `detach`, the model has none of ours."""

    def __init__(self, registry: DeviceRegistry, compute_device: str) -> None:
        self._registry = registry
        self._device_copies = DeviceCopies(registry)
        self._compute_device = compute_device
        self._forwards = self._new_forwards()
        self.micro_batches: MicroBatches | None = None
        """Is told of every change from one card to another."""
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
                    if any(name.startswith(f"{outer}.") for outer in relayed):
                        self._lend(called)
        for called in called_modules(module):
            end = _uncompiled(self._end_step)
            self._handles.append(called.register_forward_pre_hook(self._note_compilation, prepend=True))
            self._handles.append(called.register_forward_pre_hook(_uncompiled(self._begin_step), prepend=True))
            self._handles.append(called.register_forward_hook(end, always_call=True))

    def detach(self) -> None:
        self.settle()
        self._forwards = self._new_forwards()
        self.micro_batches = None
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def settle(self) -> None:
        """Undo what a forward that was broken off left behind: torch calls no hook after what is no Exception.

        Of two halves, that is the one that is being issued; each does so itself.
        """
        forward = self._forward
        if forward.running is not None:
            self._leave_device(forward).call.leave(None, stays=False)
        forward.remote.end()
        forward.cache.end_step(is_complete=False)
        forward.last = None

    @property
    def _forward(self) -> _Forward:
        """The forward that is being issued."""
        return self._forwards[self.micro_batches.index if self.micro_batches is not None else 0]

    def _new_forwards(self) -> tuple[_Forward, ...]:
        compute, arguments = self._registry.torch_device(self._compute_device), Arguments()
        return tuple(
            _Forward(RemoteActivations(compute, self._device_copies), TransferCache(arguments, self._device_copies))
            for _ in range(2)
        )

    def _hook(self, module: nn.Module, stop: _Stop, slots: Iterable[TensorSlot]) -> None:
        self._hook_exit(module)
        self._handles.append(self._hook_entry(module, stop))
        for inner in _owners(slots):
            if inner is not module:  # for callers that reach past the module's own forward
                stop.inner.append(self._hook_entry(inner, _Stop(stop.device, stop.scope, hooks_exit=True)))
        self._handles += stop.inner

    def _hook_entry(self, module: nn.Module, stop: _Stop) -> SuspendableHook:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
            running = self._forward.running
            if running is not None:
                running.depth += module is running.module
                return None
            if stop.hooks_exit:
                stop.hooks_exit = False
                self._hook_exit(module)
            return self._enter(module, stop, args, kwargs)

        return SuspendableHook(module, _uncompiled(enter), with_kwargs=True)

    def _hook_exit(self, module: nn.Module) -> None:
        def leave(module: nn.Module, args: Any, output: Any) -> Any:
            forward = self._forward
            running = forward.running
            if running is None or running.module is not module:
                return None
            running.depth -= 1
            return None if running.depth else self._leave(forward, output)

        leave = _uncompiled(leave)
        self._handles.append(module.register_forward_hook(leave, always_call=True, prepend=True))

    def _watch(self, module: nn.Module, stop: _Stop) -> None:
        def arrive(module: nn.Module, args: Any) -> None:
            forward = self._forward
            if forward.running is None:
                self._follow(forward, stop)
                here = self._end_chunk_before(forward, None)
                forward.remote.end()
                self._begin_chunk_after(forward, here)

        self._handles.append(module.register_forward_pre_hook(_uncompiled(arrive), prepend=True))

    def _lend(self, module: nn.Module) -> None:
        """Let a head inside a relayed block, such as T5's position bias, compute at home for a block on a donor."""
        copies = self._device_copies

        def come(module: nn.Module, args: Any, kwargs: Any) -> Any:
            forward = self._forward
            if forward.running is None:
                return None
            return replace_tensors((args, kwargs), partial(copies.to, device=forward.remote.compute))

        def go(module: nn.Module, args: Any, output: Any) -> Any:
            running = self._forward.running
            return None if running is None else replace_tensors(output, partial(copies.to, device=running.stop.device))

        self._handles.append(module.register_forward_pre_hook(_uncompiled(come), with_kwargs=True))
        self._handles.append(module.register_forward_hook(_uncompiled(go)))

    def _enter(self, module: nn.Module, stop: _Stop, args: Any, kwargs: Any) -> Any:
        forward = self._forward
        self._follow(forward, stop)
        here = self._end_chunk_before(forward, stop.device)
        forward.remote.device = stop.device
        call = RemoteCall(forward.remote, forward.cache, stop.device)
        scope = stop.scope()
        scope.__enter__()
        forward.running = _Running(module, stop, call, scope)
        arguments = call.arrive(args, kwargs)
        self._begin_chunk_after(forward, here)
        SuspendableHook.suspend(stop.inner)  # the other half, issued meanwhile, may have left this module
        return arguments

    def _leave(self, forward: _Forward, output: Any) -> Any:
        running = self._leave_device(forward)
        following = running.stop.next
        goes_on = following is not None and following.device != forward.remote.compute
        stays = goes_on and output is not None and not self._is_compiled
        here = forward.remote.device if stays else self._end_chunk_before(forward, None)
        has_failed = output is None
        output = running.call.leave(output, stays=stays)
        if not stays:
            forward.remote.device = None
            self._begin_chunk_after(forward, here, hands_over=not has_failed)
        return output

    def _leave_device(self, forward: _Forward) -> _Running:
        """The relayed module that is running has ended: its device is not the current one any more."""
        running, forward.running = forward.running, None
        assert running is not None, "one is running"
        SuspendableHook.resume(running.stop.inner)
        running.device_scope.__exit__(None, None, None)
        return running

    def _end_chunk_before(self, forward: _Forward, device: torch.device | None) -> torch.device | None:
        """Say that the chunk here ends if the forward goes on elsewhere; hops are issued between end and beginning.

        A device of None is the compute device. Returns the one where the forward is.
        """
        here = forward.remote.device
        if device != here and self.micro_batches is not None:
            self.micro_batches.end_chunk(here or forward.remote.compute)
        return here

    def _begin_chunk_after(self, forward: _Forward, before: torch.device | None, *, hands_over: bool = True) -> None:
        device = forward.remote.device
        if before != device and self.micro_batches is not None:
            self.micro_batches.begin_chunk(device or forward.remote.compute, hands_over=hands_over)

    def _follow(self, forward: _Forward, stop: _Stop) -> None:
        if forward.last is not None:
            forward.last.next = stop
        forward.last = stop

    def _note_compilation(self, module: nn.Module, args: Any) -> None:
        """A model that is compiled as a whole knows no carried tensors: each block hands its result back."""
        self._is_compiled = torch.compiler.is_compiling()

    def _begin_step(self, module: nn.Module, args: Any) -> None:
        self.settle()
        if self.micro_batches is not None:
            self.micro_batches.begin_chunk(self._forward.remote.compute)

    def _end_step(self, module: nn.Module, args: Any, output: Any) -> None:
        forward = self._forward
        if self.micro_batches is not None:
            self.micro_batches.end_chunk(forward.remote.device or forward.remote.compute)
        forward.remote.end()
        forward.cache.end_step(is_complete=output is not None)
        forward.last = None


def _uncompiled(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A compiled block computes from the tensors that it is given; how they come to it is not part of it."""
    return torch.compiler.disable(hook)  # type: ignore[no-untyped-call, no-any-return]


def _owners(slots: Iterable[TensorSlot]) -> Iterator[nn.Module]:
    yield from {id(slot.owner): slot.owner for slot in slots}.values()
