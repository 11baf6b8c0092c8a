"""Brings offloaded weights to the compute device for the length of the forward that needs them.

Each offloaded block has one or more *regions*: the outermost modules in it that are really called. A region's forward
pre-hook swaps its offloaded tensors for copies on the compute device; its forward hook, which also runs after an
exception, swaps the stored tensors back and lets the copies go:

    stored on donor ──copy──▶ staged on compute device ──▶ forward ──▶ staged copy freed, stored tensor back in place

So inside the forward the code path is the one of a resident model, and outside it every parameter is the one that
state_dict, LoRA loaders and other extensions have always seen. Modules inside a region are hooked as well, for callers
that reach past the region's own forward; there they find their weights staged already and do nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from multigpu.multigpu_core.allocation.stored_size import tensor_bytes

from .tensor_slots import TensorSlot


class TransferCount:
    """Bytes brought to the compute device, in all and for each step.

    A step is one pass over the model: it ends when a region is entered for the second time.
    """

    def __init__(self) -> None:
        self.total_bytes = 0
        self._finished_step_bytes: int | None = None
        self._running_step_bytes = 0
        self._entered: set[Region] = set()

    @property
    def step_bytes(self) -> int:
        """Bytes of the last finished step; of the running one while it is the first."""
        return self._running_step_bytes if self._finished_step_bytes is None else self._finished_step_bytes

    def entered(self, region: Region, moved_bytes: int) -> None:
        if region in self._entered:
            self._finished_step_bytes = self._running_step_bytes
            self._running_step_bytes = 0
            self._entered.clear()
        self._entered.add(region)
        self._running_step_bytes += moved_bytes
        self.total_bytes += moved_bytes


class Region:
    """A called module and the offloaded tensors in it."""

    def __init__(self, slots: tuple[TensorSlot, ...], compute: torch.device, count: TransferCount) -> None:
        self.slots = slots
        self._compute = compute
        self._count = count
        self._stored: list[tuple[TensorSlot, torch.Tensor]] = []
        self._depth = 0

    @property
    def is_staged(self) -> bool:
        return self._depth > 0

    def stage(self, module: nn.Module, args: Any) -> None:
        self._depth += 1
        if self._depth > 1:
            return
        staged: dict[int, tuple[torch.Tensor, int]] = {}
        for slot in self.slots:
            stored = slot.tensor
            if stored.device == self._compute:
                continue
            if id(stored) not in staged:  # a tensor under two names is brought once
                staged[id(stored)] = stored.detach().to(self._compute, non_blocking=True), tensor_bytes(stored)
            self._stored.append((slot, stored))
            slot.put(staged[id(stored)][0])
        self._count.entered(self, sum(size for _, size in staged.values()))

    def unstage(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._depth > 1:
            self._depth -= 1
        elif self._depth == 1:
            self.settle()

    def settle(self) -> None:
        """Put every stored tensor back in its place."""
        self._depth = 0
        for slot, stored in self._stored:
            slot.put(stored)
        self._stored.clear()


class BlockStager:
    """Hooks on one model; without `attach`, or after `detach`, the model has none of ours."""

    def __init__(self, compute: torch.device) -> None:
        self.compute = compute
        self.count = TransferCount()
        self._regions: list[Region] = []
        self._handles: list[RemovableHandle] = []

    def attach(self, module: nn.Module, offloaded: Mapping[str, tuple[TensorSlot, ...]]) -> None:
        """Serve these blocks (slots by block name), and no others, from now on."""
        self.detach()
        paths = dict(module.named_modules())
        for name, slots in offloaded.items():
            for region_module, region_slots in _regions(paths.get(name), slots):
                self._hook(region_module, region_slots)

    def detach(self) -> None:
        self.settle()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._regions.clear()

    def settle(self) -> None:
        """Put stored tensors back that a forward left staged.

        Torch calls no hook after what is no Exception, and ComfyUI's interrupt is none.
        """
        for region in self._regions:
            region.settle()

    def _region(self, slots: tuple[TensorSlot, ...]) -> Region:
        region = Region(slots, self.compute, self.count)
        self._regions.append(region)
        return region

    def _hook(self, module: nn.Module, slots: tuple[TensorSlot, ...]) -> None:
        region = self._region(slots)
        self._handles.append(module.register_forward_pre_hook(region.stage, prepend=True))
        self._handles.append(module.register_forward_hook(region.unstage, always_call=True))
        for inner, inner_slots in _by_owner(slots):
            if inner is not module:
                self._hook_inner(inner, inner_slots, region)

    def _hook_inner(self, module: nn.Module, slots: tuple[TensorSlot, ...], outer: Region) -> None:
        region = self._region(slots)
        unstaging: list[RemovableHandle] = []

        def stage(module: nn.Module, args: Any) -> None:
            if outer.is_staged:
                return
            region.stage(module, args)
            if not unstaging:  # rarely needed, so each call pays for one hook instead of two
                unstaging.append(module.register_forward_hook(region.unstage, always_call=True))
                self._handles.append(unstaging[0])

        self._handles.append(module.register_forward_pre_hook(stage, prepend=True))


def _regions(
    root: nn.Module | None, slots: tuple[TensorSlot, ...]
) -> Iterator[tuple[nn.Module, tuple[TensorSlot, ...]]]:
    """Share a block's slots among the outermost modules under `root` that are called as a whole.

    Without a root (the block is no module of its own) each slot's owner is a region.
    """
    owner_to_region: dict[int, nn.Module] = {}
    for region in called_modules(root) if root is not None else ():
        for inner in region.modules():
            owner_to_region.setdefault(id(inner), region)
    grouped: dict[int, tuple[nn.Module, list[TensorSlot]]] = {}
    for slot in slots:
        region = owner_to_region.get(id(slot.owner), slot.owner)
        grouped.setdefault(id(region), (region, []))[1].append(slot)
    for region, of_region in grouped.values():
        yield region, tuple(of_region)


def called_modules(root: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules at or under `root` that are called: not containers, whose items may be called singly."""
    is_container = isinstance(root, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
    has_forward = type(root).forward is not nn.Module.forward
    if has_forward and not is_container:
        yield root
        return
    for child in root.children():
        yield from called_modules(child)


def _by_owner(slots: Iterable[TensorSlot]) -> Iterator[tuple[nn.Module, tuple[TensorSlot, ...]]]:
    grouped: dict[int, tuple[nn.Module, list[TensorSlot]]] = {}
    for slot in slots:
        grouped.setdefault(id(slot.owner), (slot.owner, []))[1].append(slot)
    for owner, of_owner in grouped.values():
        yield owner, tuple(of_owner)
