"""Make a variant with a choice of device from any node that ComfyUI serves, at start-up or at any time later."""

from __future__ import annotations

import difflib
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from multigpu.multigpu_core.comfy.host.compatibility import Feature
from multigpu.multigpu_core.comfy.host.loader_class import LoaderClass, is_v3
from multigpu.multigpu_core.comfy.nodes.inputs import InputSpec
from multigpu.multigpu_core.comfy.nodes.loading import LoadContext
from multigpu.multigpu_core.comfy.nodes.variants import VariantNode, make_variant, origin_of_ours
from multigpu.multigpu_core.contract.loaders import DevicePart, NodeVariant
from multigpu.multigpu_core.plugins import plain_name

from .call_scope import SelfLoadingPack, library_interception
from .followers import Followers
from .in_comfyui import origin_of, pack_path, served_nodes, titles
from .job import LazySelfLoadingNode, SelfLoadingNode
from .kept.kept_models import KeptModels
from .outputs import DATA_TYPES, PLAIN_TYPES

log = structlog.get_logger("multigpu")

SUFFIX = "MultiGPU"
DEVICE_INPUT = "device"
OTHER_DEVICE_INPUT = "multigpu_device"
"""Where the class has an input `device` of its own."""


class UnknownNodeError(LookupError):
    """ComfyUI has no node of this id."""

    def __init__(self, node_id: str, known: Iterable[str]) -> None:
        self.node_id = node_id
        nearest = difflib.get_close_matches(node_id, list(known), n=1)
        meant = f" Did you mean {nearest[0]}?" if nearest else " Its pack may be missing or may have failed to load."
        super().__init__(f"There is no node {node_id!r}.{meant}")


class UnsuitableNodeError(ValueError):
    """A node that cannot be given a choice of device, and why."""

    def __init__(self, node_id: str, reason: str) -> None:
        self.node_id = node_id
        super().__init__(f"{node_id} cannot be given a device: {reason}")


@dataclass(frozen=True)
class DeviceChoice:
    """Where a user chooses the device of a node: in the input of a node class."""

    node_id: str
    device_input: str
    devices: tuple[str, ...]


class SelfLoadingNodes:
    """The variants with a choice of device that were made of nodes of any pack, and their packs."""

    def __init__(self, context: LoadContext, redirected_packs: Iterable[str] = ()) -> None:
        self._context = context
        self._redirected = {plain_name(name) for name in redirected_packs}
        self._interception = library_interception()
        self.kept = KeptModels()
        """The models that nodes keep by themselves."""
        self._packs: dict[str, SelfLoadingPack] = {}
        self._defaults: dict[str, str] = {}
        self._making = threading.Lock()
        self._followers = Followers(context, self.pack_of)

    def choice_for(self, node_id: str) -> DeviceChoice:
        """Where the device of a node is chosen: in the node itself, or in a variant, made now if there is none.

        Raises:
            UnknownNodeError, UnsuitableNodeError: it cannot be chosen, and why.
        """
        with self._making:
            classes = served_nodes()
            node = classes.get(node_id)
            if node is None:
                raise UnknownNodeError(node_id, classes)
            if (own := self._own_choice(node_id, node)) is not None:
                return own
            variant_id = f"{node_id}{SUFFIX}"
            if variant_id not in classes:
                self._make(node_id, node, variant_id)
            choice = self._own_choice(variant_id, served_nodes()[variant_id])
            if choice is None:
                raise UnsuitableNodeError(node_id, f"{variant_id} is a node of another pack without such a choice.")
            return choice

    def make_configured(self, wanted: Mapping[str, str]) -> dict[str, str]:
        """Make the variants of node ids, each with the device that it offers first; what is wrong, by node id."""
        problems = {}
        for node_id, device in wanted.items():
            try:
                self._defaults[f"{node_id}{SUFFIX}"] = self._context.host.registry.resolve(device)
                self.choice_for(node_id)
            except Exception as error:  # a pack's class can fail in any way: the others are made all the same
                problems[node_id] = str(error)
        return problems

    def make_named(self, prompt: Mapping[str, Any]) -> None:
        """Make the variants that a prompt names and nobody has made yet; ComfyUI reports the others as unknown."""
        for node in prompt.values():
            node_id = node.get("class_type") if isinstance(node, Mapping) else None
            if not isinstance(node_id, str) or node_id in served_nodes() or not node_id.endswith(SUFFIX):
                continue
            try:
                self.choice_for(node_id.removesuffix(SUFFIX))
            except (UnknownNodeError, UnsuitableNodeError) as error:
                log.warning("variant_not_made", message=str(error), node_id=node_id)

    def pack_of(self, node: LoaderClass) -> SelfLoadingPack:
        """The pack that a node class is from."""
        path = pack_path(node)
        if path not in self._packs:
            origin = origin_of(node)
            siblings = partial(_nodes_of, origin) if path else list
            redirects = bool(path) and plain_name(os.path.basename(path)) in self._redirected
            self._packs[path] = SelfLoadingPack(path, siblings, self._interception, self.kept, redirects)
        return self._packs[path]

    def release(self) -> None:
        """Forget the models that packs keep on other devices than ComfyUI's own."""
        for pack in list(self._packs.values()):
            pack.caches.release()

    def restore(self) -> None:
        """Give nodes that follow our models their own functions back."""
        self._followers.restore()

    def _own_choice(self, node_id: str, node: LoaderClass) -> DeviceChoice | None:
        """The input of a node that lists every device, if it has one."""
        names = self._context.host.registry.names()
        accelerators = {name for name in names if name != "cpu"}
        for name, spec in _inputs(node_id, node).items():
            if accelerators and accelerators <= set(map(str, InputSpec.options(spec))):
                return DeviceChoice(node_id, name, names)
        return None

    def _make(self, node_id: str, wrapped: LoaderClass, variant_id: str) -> None:
        if fault := self._context.missing.get(Feature.ANY_NODE):
            raise UnsuitableNodeError(node_id, f"this ComfyUI has changed: {fault}.")
        if issubclass(wrapped, VariantNode):
            raise UnsuitableNodeError(node_id, "it is a node of this extension without a device.")
        device_input = OTHER_DEVICE_INPUT if DEVICE_INPUT in _inputs(node_id, wrapped) else DEVICE_INPUT
        part = DevicePart(_models_among(wrapped), device_input=device_input)
        variant = NodeVariant(variant_id, SUFFIX, (part,), default_device=self._defaults.get(variant_id, ""))
        base = LazySelfLoadingNode if hasattr(wrapped, "check_lazy_status") and not is_v3(wrapped) else SelfLoadingNode
        node = make_variant(wrapped, variant, self._context, base=base)
        node.PACK_STATE = self.pack_of(wrapped)  # type: ignore[attr-defined]
        if getattr(wrapped, "INPUT_IS_LIST", False):
            node.INPUT_IS_LIST = True  # type: ignore[attr-defined]
        node.INPUT_TYPES()  # one that cannot say its inputs fails here
        ours = [each for each in list(served_nodes().values()) if issubclass(each, VariantNode)]
        node.RELATIVE_PYTHON_MODULE = origin_of_ours(ours)  # type: ignore[attr-defined]
        self._followers.follow(wrapped)
        served_nodes()[variant_id] = node
        titles()[variant_id] = f"{SUFFIX}: {titles().get(node_id, node_id)}"
        log.info("variant_made", message=f"Made {variant_id}: {node_id} with a choice of device", node_id=variant_id)


def _nodes_of(origin: str) -> list[type]:
    return [node for node in list(served_nodes().values()) if origin_of(node) == origin]


def _inputs(node_id: str, node: LoaderClass) -> dict[str, Any]:
    try:
        sections = node.INPUT_TYPES()
        return {name: spec for part in ("required", "optional") for name, spec in (sections.get(part) or {}).items()}
    except Exception as error:  # a pack's own class
        raise UnsuitableNodeError(node_id, f"it cannot list its inputs ({error}).") from error


def _models_among(node: LoaderClass) -> tuple[int, ...]:
    """The outputs that may be models: all but data and plain values."""
    return tuple(
        index for index, kind in enumerate(node.RETURN_TYPES) if str(kind) not in DATA_TYPES and kind not in PLAIN_TYPES
    )
