"""The outputs of nodes with keep_loaded, held beside ComfyUI's own cache.

ComfyUI drops a node's output with the first prompt that is without the node. When the node is back, with the same
inputs and files, it hands out the same models again. They are held until their node runs with keep_loaded off or with
other inputs, one of their files changes, everything is freed, or their node has been in no prompt for long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multigpu.multigpu_core.comfy.host.compatibility import folder_paths
from multigpu.multigpu_core.comfy.host.host import executing_node
from multigpu.multigpu_core.comfy.host.loader_outputs import PLAIN

Stamp = tuple[tuple[str, int, int], ...]
NodeKey = tuple[str, str]
"""A node's class and id."""


@dataclass
class _Retained:
    """A loader's result, what it was made from, and the size and time of change of each file among that."""

    inputs: Mapping[str, Any]
    files: Stamp
    result: Any
    last_wanted: float
    """When its node was in a prompt for the last time, in seconds of the clock."""


class RetainedOutputs:
    """The retained results of loaders, one for each node.

    Only the prompt worker adds and removes; `want`, `unwanted` and `spare_once` may be called by any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._retained: dict[NodeKey, _Retained] = {}
        self._is_spared = False

    def __len__(self) -> int:
        return len(self._retained)

    def result(self, node_class: str, inputs: Mapping[str, Any]) -> Any | None:
        """The retained result of this node if it was made of the same inputs and files; else it is released."""
        retained = self._retained.pop(_key(node_class), None)
        if retained is None or not _is_plain(inputs):
            return None
        if retained.inputs != inputs or retained.files != _files(inputs):
            return None
        retained.last_wanted = self._clock()
        self._retained[_key(node_class)] = retained
        return retained.result

    def keep(self, node_class: str, inputs: Mapping[str, Any], result: Any) -> None:
        """Retain a result, unless an input was no name or number: such a value may have changed by the next time."""
        if _is_plain(inputs):
            retained = _Retained(dict(inputs), _files(inputs), result, self._clock())
            self._retained[_key(node_class)] = retained

    def want(self, nodes: Iterable[NodeKey]) -> None:
        """Note that these nodes are in a prompt now."""
        for node in nodes:
            if (retained := self._retained.get(node)) is not None:
                retained.last_wanted = self._clock()

    def unwanted(self, seconds: float) -> list[NodeKey]:
        """The nodes with retained outputs that have been in no prompt for `seconds`."""
        now = self._clock()
        return [node for node, held in list(self._retained.items()) if now - held.last_wanted >= seconds]

    def release_unwanted(self, seconds: float) -> list[NodeKey]:
        """Release the outputs of nodes that have been in no prompt for `seconds`, and return these nodes.

        Models may be freed by it: only the prompt worker may call it.
        """
        unwanted = self.unwanted(seconds)
        for node in unwanted:
            del self._retained[node]
        return unwanted

    def spare_once(self) -> None:
        """Make the next `release_all` release nothing: only ComfyUI's cached outputs are to be cleared."""
        self._is_spared = True

    def release_all(self) -> None:
        """Release everything: ComfyUI clears its own cache at that moment."""
        if not self._is_spared:
            self._retained.clear()
        self._is_spared = False


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
