"""Models whose nodes keep them, alive also when ComfyUI's node cache lets go of them.

ComfyUI forgets a node's output with the first prompt that is without the node. When the node is back, with the same
inputs and files, it hands out the same models again. They are held until their node runs with keep_loaded off or with
other inputs, one of their files changes, everything is freed, or their node has been in no prompt for long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths

from multigpu.multigpu_core.comfy.host.executing import executing_node
from multigpu.multigpu_core.comfy.nodes.rebuilding import PLAIN

Stamp = tuple[tuple[str, int, int], ...]
NodeKey = tuple[str, str]
"""A node's class and id."""


@dataclass(frozen=True)
class Kept:
    """A loader's result, what it was made from, and the size and time of change of each file among that."""

    inputs: Mapping[str, Any]
    files: Stamp
    result: Any


@dataclass
class _Held:
    kept: Kept
    last_wanted: float
    """When its node was in a prompt for the last time, in seconds of the clock."""


class KeptModels:
    """The results of loaders that are held, one for each node.

    Only the prompt worker adds and removes; `want`, `unwanted` and `spare_once` may be called by any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[NodeKey, _Held] = {}
        self._is_spared = False

    def __len__(self) -> int:
        return len(self._held)

    def result(self, node_class: str, inputs: Mapping[str, Any]) -> Any | None:
        """What this node made of the same inputs and files before, if it is held; anything else of it is let go."""
        held = self._held.pop(_key(node_class), None)
        if held is None or not _is_plain(inputs) or held.kept.inputs != inputs or held.kept.files != _files(inputs):
            return None
        self._hold(node_class, held.kept)
        return held.kept.result

    def keep(self, node_class: str, inputs: Mapping[str, Any], result: Any) -> None:
        """Hold a result, unless it was made of more than names and numbers: those may have changed by the next time."""
        if _is_plain(inputs):
            self._hold(node_class, Kept(dict(inputs), _files(inputs), result))

    def want(self, nodes: Iterable[NodeKey]) -> None:
        """Note that these nodes are in a prompt now."""
        for node in nodes:
            if (held := self._held.get(node)) is not None:
                held.last_wanted = self._clock()

    def unwanted(self, seconds: float) -> list[NodeKey]:
        """The nodes with something held that have been in no prompt for `seconds`."""
        now = self._clock()
        return [node for node, held in list(self._held.items()) if now - held.last_wanted >= seconds]

    def release_unwanted(self, seconds: float) -> list[NodeKey]:
        """Release what is held for nodes that have been in no prompt for `seconds`, and return these nodes.

        Models may be freed by it: only the prompt worker may call it.
        """
        unwanted = self.unwanted(seconds)
        for node in unwanted:
            del self._held[node]
        return unwanted

    def spare_once(self) -> None:
        """Let nothing go at the next `release_all`: only ComfyUI's cached outputs are to go."""
        self._is_spared = True

    def release_all(self) -> None:
        """Let everything go: ComfyUI's own cache does so at that moment."""
        if not self._is_spared:
            self._held.clear()
        self._is_spared = False

    def _hold(self, node_class: str, kept: Kept) -> None:
        self._held[_key(node_class)] = _Held(kept, self._clock())


def _is_plain(inputs: Mapping[str, Any]) -> bool:
    return all(isinstance(value, PLAIN) for value in inputs.values())


def _key(node_class: str) -> NodeKey:
    return node_class, executing_node() or ""


def _files(inputs: Mapping[str, Any]) -> Stamp:
    """Path, size in bytes and time of change (ns) of every model file that an input names."""
    names = {value for value in inputs.values() if isinstance(value, str) and value}
    found = {
        path
        for category in list(folder_paths.folder_names_and_paths)
        for name in names
        if "custom_nodes" not in category and (path := folder_paths.get_full_path(category, name)) is not None
    }
    stamps = ((path, Path(path).stat()) for path in sorted(found))
    return tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stamps)
