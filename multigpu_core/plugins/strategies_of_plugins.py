"""The strategies that can be chosen: ours, and those of plugins, guarded so that a broken one spoils no load."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from multigpu.multigpu_core.strategies.built_in import built_in_strategies
from multigpu.multigpu_core.strategies.strategy import Assign, Strategies, Strategy

from .extensions import checked
from .manager import PluginManager
from .validation import PluginError

if TYPE_CHECKING:
    from multigpu.multigpu_core.allocation.inventory.inventory import Block

_NAME = re.compile(r"[a-z][a-z0-9_-]*")


def strategies(plugins: PluginManager) -> Strategies:
    """The built-in strategies, then those of plugins. One that fails takes its plugin out; `interleave` stands in."""
    built_in = built_in_strategies()
    taken = set(built_in.names)

    def check(plugin: str, found: Strategy) -> Strategy:
        if not isinstance(found.name, str) or not _NAME.fullmatch(found.name):
            raise PluginError(plugin, f"{found.name!r:.80} is no strategy name: use small letters, digits, - and _.")
        if found.name in taken:
            raise PluginError(plugin, f"There is a strategy {found.name} already: choose another name.")
        if not isinstance(found.summary, str) or not callable(found.assign):
            raise PluginError(plugin, f"Strategy {found.name}: it takes a text and a function.")
        if type(found.relays) is not bool or type(found.replicates) is not bool or (found.relays and found.replicates):
            raise PluginError(plugin, f"Strategy {found.name}: relays and replicates are bools, at most one is true.")
        taken.add(found.name)
        return replace(found, assign=_guarded(plugins, plugin, found))

    return Strategies((*built_in, *checked(plugins, "multigpu_strategies", Strategy, check)))


def _guarded(plugins: PluginManager, plugin: str, found: Strategy) -> Assign:
    def assign(
        blocks: Sequence[Block], compute_device: str, target_bytes: Mapping[str, int], free_bytes: Mapping[str, int]
    ) -> Sequence[str]:
        if plugins.works(plugin):
            try:
                devices = list(found.assign(blocks, compute_device, target_bytes, free_bytes))
                if fault := next(_faults(blocks, devices, free_bytes), ""):
                    raise PluginError(plugin, f"The strategy {found.name} {fault}.")
                return devices
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a plugin's code may raise anything, SystemExit included
                plugins.fail(plugin, error)
        return Strategy.INTERLEAVE.assign(blocks, compute_device, target_bytes, free_bytes)

    return assign


def _faults(blocks: Sequence[Block], devices: Sequence[str], free_bytes: Mapping[str, int]) -> Iterator[str]:
    """What is wrong with an answer, as the rest of a sentence."""
    if len(devices) != len(blocks):
        yield f"names {len(devices)} devices for {len(blocks)} blocks"
        return
    stored: Counter[str] = Counter()
    for block, device in zip(blocks, devices, strict=True):
        if device not in free_bytes:
            yield f"puts {block.name} on {device!r:.80}; the devices are {', '.join(free_bytes)}"
            return
        stored[device] += block.size_bytes
    for device, size in stored.items():
        if size > free_bytes[device]:
            yield f"puts {size} bytes on {device}, which can take {free_bytes[device]}"
