"""Learn in which order the layers of a block are called, once for each kind of block.

Modules register their layers in another order than they call them, and each surprise throws away what was copied ahead.
So in the first step no layer of a block is copied ahead before a block of that kind has run: the first one is watched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from multigpu.multigpu_core.allocation import Block, BlockKind

from .called_modules import called_modules

BlockClass = tuple[type, tuple[str, ...]]
"""Blocks of one class of modules that have layers of the same names."""


@dataclass(frozen=True)
class Place:
    """Where a module stands: the block, and the path inside of it, which is empty for the block itself."""

    block: str
    path: str

    @classmethod
    def of(cls, name: str, block: str) -> Place:
        return cls(block, name.removeprefix(block).removeprefix("."))


class LayerOrders:
    """What is known of one model, for as long as it lives."""

    def __init__(self) -> None:
        self._known: dict[BlockClass, tuple[str, ...]] = {}

    def of(self, block_class: BlockClass) -> tuple[str, ...] | None:
        return self._known.get(block_class)

    def learn(self, block_class: BlockClass, paths: Sequence[str]) -> None:
        self._known.setdefault(block_class, tuple(paths))


class LayerWatch:
    """Watches blocks of a class whose order is not known."""

    def __init__(self, orders: LayerOrders) -> None:
        self._orders = orders
        self._has_news = False
        self._class_of: dict[str, BlockClass] = {}
        self._running = ""
        self._seen: list[str] = []
        self._handles: list[RemovableHandle] = []

    def attach(self, modules: Mapping[str, nn.Module], parts: Iterable[Block], hooked: Iterable[Place]) -> None:
        """Watch the blocks of a model, of which `parts` are all blocks and layers.

        Calls of those that are `hooked` are told to `entered`.
        """
        layers: dict[str, list[str]] = {}
        for part in parts:
            if part.part_of and part.kind is not BlockKind.HEAD:
                layers.setdefault(part.part_of, []).append(part.name)
        hooked = frozenset(hooked)
        names = {id(module): name for name, module in modules.items()}
        for block, paths in layers.items():
            relative = tuple(sorted(path.removeprefix(block) for path in paths))
            block_class = (type(modules.get(block)), relative)
            self._class_of[block] = block_class
            if self._orders.of(block_class) is not None:
                continue
            for path in paths:
                for called in called_modules(modules[path]):
                    place = Place.of(names[id(called)], block)
                    if place not in hooked:
                        note = torch.compiler.disable(partial(self._resident_entered, place))  # type: ignore[no-untyped-call]
                        self._handles.append(called.register_forward_pre_hook(note))

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._class_of.clear()
        self.break_off()

    def break_off(self) -> None:
        """Forget the block that runs."""
        self._running = ""
        self._seen.clear()

    def entered(self, place: Place) -> None:
        """Note a call."""
        if place.block != self._running:
            self._finish()
            self._running = place.block
        if self._is_open(place.block):
            self._seen.append(place.path)

    def take_news(self) -> bool:
        """Whether the order of another class has become known since this was asked last."""
        has_news, self._has_news = self._has_news, False
        return has_news

    def in_order(self, places: Mapping[int, Place]) -> list[int]:
        """Modules by number, as they are called in a step, as far as that is known; others are left out."""
        by_block: dict[str, dict[str, int]] = {}
        for number, place in places.items():
            by_block.setdefault(place.block, {})[place.path] = number
        order: list[int] = []
        for block, numbers in by_block.items():
            block_class = self._class_of.get(block)
            known = self._orders.of(block_class) if block_class is not None else None
            if block_class is None or len(block_class[1]) == 1 or "" in numbers:
                order += numbers.values()
            elif known is not None:
                order += [numbers[path] for path in known if path in numbers]
        return order

    def _resident_entered(self, place: Place, module: nn.Module, args: object) -> None:
        self.entered(place)

    def _is_open(self, block: str) -> bool:
        block_class = self._class_of.get(block)
        return block_class is not None and self._orders.of(block_class) is None

    def _finish(self) -> None:
        if self._seen:
            self._orders.learn(self._class_of[self._running], self._seen)
            self._seen.clear()
            if not any(map(self._is_open, self._class_of)):
                for handle in self._handles:
                    handle.remove()
                self._handles.clear()
            self._has_news = True
