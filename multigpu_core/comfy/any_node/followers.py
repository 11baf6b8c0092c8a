"""Let later nodes run on the device of a model that a node of ours made and that only packs know.

Such a node chooses its device again when it runs. A model from the node without MultiGPU changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from multigpu.multigpu_core.comfy.host.loader_class import LoaderClass
from multigpu.multigpu_core.comfy.host.loader_outputs import map_outputs
from multigpu.multigpu_core.comfy.host.scope import Devices
from multigpu.multigpu_core.comfy.nodes.loading import LoadContext
from multigpu.multigpu_core.comfy.nodes.variants import VariantNode
from multigpu.multigpu_core.comfy.packs.pack_nodes import Following
from multigpu.multigpu_core.contract.loaders import PackDevices

from .call_scope import SelfLoadingPack
from .in_comfyui import origin_of, served_nodes
from .job import delivered
from .outputs import DATA_TYPES, PLAIN_TYPES


class Followers:
    """The nodes that follow models of types that ComfyUI itself does not know."""

    def __init__(self, context: LoadContext, pack_of: Callable[[LoaderClass], SelfLoadingPack]) -> None:
        self._context = context
        self._pack_of = pack_of
        self._followed: set[str] = set()

    def follow(self, maker: LoaderClass) -> None:
        """Let every node of a pack follow the models that `maker` makes, where no node of ComfyUI has their types."""
        types = tuple(str(kind) for kind in maker.RETURN_TYPES if str(kind) not in self._known_types())
        if not types or self._followed.issuperset(types):
            return
        self._followed.update(types)
        for node in list(served_nodes().values()):
            if origin_of(node) and not issubclass(node, VariantNode):
                following = Following(partial(self._on, node), partial(_delivered_all, node))
                self._context.packs.follow([node], PackDevices(types), following)

    def restore(self) -> None:
        self._followed.clear()

    def _known_types(self) -> set[str]:
        known = set(DATA_TYPES | PLAIN_TYPES)
        for node in list(served_nodes().values()):
            if not origin_of(node) and not issubclass(node, VariantNode):
                known.update(str(kind) for kind in getattr(node, "RETURN_TYPES", None) or ())
        return known

    @contextmanager
    def _on(self, node: LoaderClass, devices: Devices, inputs: Mapping[str, Any]) -> Iterator[None]:
        pack = self._pack_of(node)
        with pack.running(node.__name__, pack.choice(self._context.host, devices)):
            yield


def _delivered_all(node: LoaderClass, result: Any) -> Any:
    return map_outputs(result, partial(delivered, node.RETURN_TYPES))
