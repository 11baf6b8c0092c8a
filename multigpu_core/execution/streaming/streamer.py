"""Bring a distributed model's offloaded layers to its compute device, by hooks on the modules that are called.

Offloaded modules that are entered as expected come from the staging ring, copied ahead (prefetcher.py). All others
are brought at the moment when they are needed, and are as correct: offloaded modules inside of others, modules that
are called past their offloaded module, calls that nobody expected, and everything on a device without streams.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from multigpu.multigpu_core.allocation import Block
from multigpu.multigpu_core.devices import DeviceRegistry
from multigpu.multigpu_core.execution.device_copies import DeviceCopies
from multigpu.multigpu_core.execution.step_record import StepRecord
from multigpu.multigpu_core.execution.storage.pinned_memory import PinnedMemory
from multigpu.multigpu_core.execution.storage.tensor_slots import TensorSlot

from .call_order import CallOrder
from .called_modules import called_modules, slots_by_called_module
from .channel_choice import ChannelChoice
from .compiled_blocks import ORIGINAL, compiled_blocks, in_units
from .inner_hooks import InnerHooks
from .layer_order import LayerOrders, LayerWatch, Place
from .offloaded_module import OffloadedModule
from .out_of_turn import OutOfTurnCopies
from .prefetcher import Prefetcher


@dataclass(frozen=True)
class _Served:
    """What a streamer was told to serve. It does not keep the model alive."""

    module: weakref.ref[nn.Module]
    offloaded: dict[str, tuple[TensorSlot, ...]]
    parts: tuple[Block, ...]

    @cached_property
    def divided(self) -> tuple[str, ...]:
        """The blocks of which layers are streamed."""
        return tuple(dict.fromkeys(p.part_of for p in self.parts if p.part_of and p.name in self.offloaded))


class Streamer:
    """Hooks on one model; without `attach`, or after `detach`, the model has none of ours.

    `staging_bytes` are what it may keep of the compute device's memory; it takes no less than the largest offloaded
    module.
    """

    def __init__(
        self,
        registry: DeviceRegistry,
        compute: str,
        locked: PinnedMemory,
        staging_bytes: int,
        orders: LayerOrders | None = None,
    ) -> None:
        self.compute = registry.torch_device(compute)
        self.record = StepRecord()
        streams = registry.streams(compute)
        self._after_capture = registry.after_capture(compute)
        self._prefetcher = Prefetcher(self.compute, streams, staging_bytes) if streams is not None else None
        self._out_of_turn = OutOfTurnCopies(self.compute, streams, DeviceCopies(registry))
        self._channels = ChannelChoice(registry, compute, locked)
        self._offloaded_modules: list[OffloadedModule] = []
        self._inner: list[InnerHooks] = []
        self._around_others: set[int] = set()
        self._order = CallOrder(())
        self._arranged: tuple[int, ...] | None = None
        """The order that the prefetcher expects; None where it has to be told anew."""
        self._watch = LayerWatch(orders or LayerOrders())
        self._places: dict[int, Place] = {}
        self._served: _Served | None = None
        self._whole_blocks: frozenset[str] = frozenset()
        """Compiled blocks, each of which is streamed at once."""
        self._active: int | None = None
        self._handles: list[RemovableHandle] = []

    def __del__(self) -> None:
        # A model may be let go as it is, right after a step: no allocator knows of the copies that are under way.
        with suppress(Exception):  # where the interpreter ends, or a device has failed, nobody uses the memory again
            stored = [offloaded.tensors for offloaded in self._offloaded_modules]
            self._after_capture(partial(_wait, self._prefetcher, self._out_of_turn, stored))

    @property
    def staging_bytes(self) -> int:
        """Bytes of the compute device that are kept for staging now."""
        return self._prefetcher.buffer_bytes if self._prefetcher is not None else 0

    def attach(
        self, module: nn.Module, offloaded: Mapping[str, tuple[TensorSlot, ...]], parts: Sequence[Block] = ()
    ) -> None:
        """Serve these blocks and layers (slots by name, in execution order), and no others, from now on.

        `parts` are all blocks and layers of the model.
        """
        self.detach()
        self._after_capture.catch_up()
        self._served = _Served(weakref.ref(module), dict(offloaded), tuple(parts))
        paths = {name.replace(f"{ORIGINAL}.", ""): each for name, each in module.named_modules()}
        names = {id(each): name for name, each in paths.items()}
        self._whole_blocks = compiled_blocks(module, self._served.divided)
        blocks = {name: name for name in offloaded} | {part.name: part.whole_name for part in parts}
        called = [
            (each, slots, Place.of(names.get(id(each), name), blocks.get(name, name)))
            for name, of_unit in in_units(offloaded, blocks, self._whole_blocks).items()
            for each, slots in slots_by_called_module(paths.get(name), of_unit)
        ]
        roots = {id(each) for each, _, _ in called}
        for index, (each, slots, place) in enumerate(called):
            self._places[index] = place
            self._offloaded_modules.append(OffloadedModule(slots))
            self._inner.append(InnerHooks(each, slots, self._out_of_turn.of))
            # A compiled block computes from the tensors that it finds; how they come there is not part of it.
            enter, leave = map(torch.compiler.disable, (partial(self._enter, index), partial(self._leave, index)))
            self._handles.append(each.register_forward_pre_hook(enter, prepend=True))
            self._handles.append(each.register_forward_hook(leave, always_call=True))
            if any(id(inner) in roots for inner in each.modules() if inner is not each):
                self._around_others.add(index)
        for outermost in called_modules(module) if self._served.divided else ():
            look = torch.compiler.disable(self._look_for_compiled)  # type: ignore[no-untyped-call]
            self._handles.append(outermost.register_forward_pre_hook(look))
        self._channels.begin(max((offloaded.size_bytes for offloaded in self._offloaded_modules), default=0))
        self._watch.attach(paths, parts, self._places.values())
        self._order = CallOrder(self._watch.in_order(self._places))
        self._arrange()

    def detach(self) -> None:
        self.settle()
        self._out_of_turn.wait()
        for hooks in self._inner:
            hooks.remove()
        for handle in self._handles:
            handle.remove()
        for kept in (self._handles, self._offloaded_modules, self._inner, self._around_others, self._places):
            kept.clear()
        self._watch.detach()
        self._channels.forget()
        if self._prefetcher is not None:
            self._prefetcher.close()

    def settle(self) -> None:
        """Undo what a forward that was broken off left behind."""
        for offloaded, inner in zip(self._offloaded_modules, self._inner, strict=True):
            inner.settle()
            if offloaded.is_staged:
                offloaded.settle()
                inner.resume()
        self._active = None
        self._order.break_off()
        self._watch.break_off()
        self.forget_copies()

    def forget_copies(self) -> None:
        """Say that stored weights have been written to: what was copied ahead is not used."""
        if self._prefetcher is not None:
            self._prefetcher.drop()

    def save_memory(self) -> None:
        """Keep no more for staging from now on than the largest offloaded module needs."""
        if self._prefetcher is not None:
            self._prefetcher.save_memory()
            self._arrange()

    def _look_for_compiled(self, module: nn.Module, args: Any) -> None:
        """Before a step, serve blocks that have been compiled, or are no longer, as they are to be served now."""
        served = self._served
        root = served.module() if served is not None else None
        if served is None or root is None or compiled_blocks(root, served.divided) == self._whole_blocks:
            return
        self.attach(root, served.offloaded, served.parts)

    def _arrange(self) -> None:
        """Let the prefetcher expect the order that is expected now."""
        self._arranged = self._order.expected
        if self._prefetcher is None:
            return
        # Also what is not expected yet: a load takes its memory at once.
        streamed = [each for i, each in enumerate(self._offloaded_modules) if i not in self._around_others]
        self._prefetcher.reserve([each for each in streamed if self._channels.channel_for(each.tensors) is not None])
        turns = []
        for index in self._arranged:
            channel = self._channels.channel_for(self._offloaded_modules[index].tensors)
            if channel is not None and index not in self._around_others:
                turns.append((self._offloaded_modules[index], channel))
        self._prefetcher.arrange(turns)

    def _look_again(self, offloaded: OffloadedModule) -> None:
        """Serve what an offloaded module stores now: somebody has exchanged its tensors."""
        offloaded.look_again()
        if self._prefetcher is None:
            return
        channel = self._channels.channel_for(offloaded.tensors)
        if self._active is not None or channel is None or not self._prefetcher.renew(offloaded, channel):
            self._arranged = None

    def _enter(self, index: int, module: nn.Module, args: Any) -> None:
        offloaded = self._offloaded_modules[index]
        if not offloaded.enter():
            return
        is_new_step = self._order.entered(index)
        self._watch.entered(self._places[index])
        if self._watch.take_news():
            self._order.teach(self._watch.in_order(self._places))
        if not offloaded.is_as_stored:
            self._look_again(offloaded)
        staged = None
        if self._active is None and self._prefetcher is not None:
            if self._arranged is not self._order.expected:
                self._arrange()
            staged = self._prefetcher.take(offloaded)
        if staged is not None:
            self._active = index
        else:
            staged = self._out_of_turn.of(offloaded)
        self.record.entered(offloaded.size_bytes, is_new_step)
        self._inner[index].suspend()
        offloaded.stage(staged)

    def _leave(self, index: int, module: nn.Module, args: Any, output: Any) -> None:
        offloaded = self._offloaded_modules[index]
        if not offloaded.leave():
            return
        offloaded.unstage()
        self._inner[index].resume()
        if self._active == index:
            self._active = None
            assert self._prefetcher is not None
            self._prefetcher.give_back()


def _wait(prefetcher: Prefetcher | None, out_of_turn: OutOfTurnCopies, stored: object) -> None:
    """Let the host wait until no copy is under way; `stored` is what they are copied from, alive until then."""
    if prefetcher is not None:
        prefetcher.wait()
    out_of_turn.wait()
