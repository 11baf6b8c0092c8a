"""The models that nodes keep by themselves, with their bytes, for the panel: ComfyUI knows nothing of them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn

from .held_devices import modules_in


@dataclass(frozen=True)
class KeptModel:
    """One model that a node has kept, as it was after the node's last call."""

    module: nn.Module
    node_id: str
    """The node's class."""
    bytes_by_device: Mapping[str, int]


class KeptModels:
    """What nodes on chosen devices keep, until nobody uses it any more."""

    def __init__(self) -> None:
        self._entries: dict[int, tuple[weakref.ref[nn.Module], str, dict[str, int]]] = {}
        self._changing = threading.Lock()

    def note(self, node_id: str, values: Iterable[object]) -> None:
        """Remember the models among what a node keeps after a call."""
        for module in modules_in(list(values)):
            sizes = _bytes_by_device(module)
            with self._changing:
                reference = weakref.ref(module, partial(self._forget, id(module)))
                self._entries[id(module)] = reference, node_id, sizes

    def __iter__(self) -> Iterator[KeptModel]:
        for reference, node_id, sizes in list(self._entries.values()):
            if (module := reference()) is not None:
                yield KeptModel(module, node_id, sizes)

    def _forget(self, module_id: int, reference: weakref.ref[nn.Module]) -> None:  # takes no lock: called at any time
        self._entries.pop(module_id, None)


def _bytes_by_device(module: nn.Module) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        sizes[str(tensor.device)] = sizes.get(str(tensor.device), 0) + tensor.nbytes
    return sizes
