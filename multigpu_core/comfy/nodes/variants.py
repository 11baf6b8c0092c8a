"""Make a node from a loader class and a variant: the one mechanism behind all our nodes.

The node *has* the wrapped class rather than being one: it reads the class's inputs and outputs when ComfyUI asks for
them, adds its own, and calls the class with what is left. So V1 classes, V3 classes, and a class whose inputs change
with its next version are all served alike.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from multigpu.multigpu_core.allocation.language.device_names import Resolver
from multigpu.multigpu_core.comfy.host.loader_class import (
    LoaderClass,
    LoaderInstances,
    input_types_v1,
    loader_function,
    own_fingerprint,
    own_validation,
    takes,
)
from multigpu.multigpu_core.comfy.host.stepwise import Stepwise
from multigpu.multigpu_core.comfy.packs.pack_nodes import Pack
from multigpu.multigpu_core.contract.loaders import NodeVariant, OwnNode, PackDevices

from .inputs import DEVICE_TYPE, OUTPUT_TOOLTIP, InputSpec, added_inputs, extra_input, own_device_inputs, with_added
from .loading import LoadContext, LoadJob, Target
from .model_files import naming_damaged_files
from .validate_inputs import checking_devices

CATEGORY = "multigpu"
FOUND_BY = ("multi gpu", "second gpu", "device", "vram")
SPLITS_FOUND_BY = (*FOUND_BY, "split", "offload")


class VariantNode:
    """Base of the nodes made here; each subclass is one variant of one class."""

    VARIANT: NodeVariant
    WRAPPED: LoaderClass
    PACK: Pack | None
    CONTEXT: LoadContext
    CATEGORY = CATEGORY

    def __init__(self) -> None:
        self._instances = LoaderInstances()

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:  # noqa: N802  # ComfyUI's name
        hidden = [name for name, _ in cls.VARIANT.fixed_inputs]
        hidden += [part.replaces.name for part in cls.VARIANT.parts if part.replaces is not None]
        return with_added(input_types_v1(cls.WRAPPED), [*cls._ours(), *cls._extra()], hidden)

    def load(self, **inputs: Any) -> Any:
        job = self._job(inputs)
        job.eject()
        if (retained := job.retained_result()) is not None:
            return retained
        with job.scope():
            with naming_damaged_files(job.loader_inputs, self.CONTEXT.host.formats):
                result = job.call(self._instances)
            return job.finish(result)

    async def load_async(self, **inputs: Any) -> Any:
        job = self._job(inputs)
        job.eject()
        if (retained := job.retained_result()) is not None:
            return retained
        return await Stepwise(self._load_async(job), job.scope)

    async def _load_async(self, job: LoadJob) -> Any:
        with naming_damaged_files(job.loader_inputs, self.CONTEXT.host.formats):
            result = await job.call(self._instances)
        return job.finish(result)

    @classmethod
    def their_inputs(cls, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What of a node's inputs the wrapped class is given."""
        ours = {added.name for added in cls._ours()}
        theirs = {name: value for name, value in inputs.items() if name not in ours}
        return {**theirs, **dict(cls.VARIANT.fixed_inputs), **cls._replaced(inputs, ours)}

    @classmethod
    def _replaced(cls, inputs: Mapping[str, Any], ours: set[str]) -> dict[str, object]:
        """What the wrapped class gets for inputs of its own that ours replace; "default" where that is a choice."""
        listed = cls.WRAPPED.INPUT_TYPES()
        own = {name: spec for section in ("required", "optional") for name, spec in listed.get(section, {}).items()}
        values: dict[str, object] = {
            name: "default" for name, spec in own.items() if name in ours and "default" in InputSpec.options(spec)
        }
        for part in cls.VARIANT.parts:
            if part.replaces is not None and part.replaces.name in own:
                values[part.replaces.name] = part.replaces.value_for(str(inputs.get(part.device_name)))
        return values

    @classmethod
    def _ours(cls) -> list[InputSpec]:
        return list(added_inputs(cls.VARIANT, cls.CONTEXT.host))

    @classmethod
    def known_devices(cls) -> Resolver:
        """Tells which devices its inputs may name."""
        return cls.CONTEXT.host.registry.resolve

    @classmethod
    def _extra(cls) -> list[InputSpec]:
        return [extra_input(e, cls.CONTEXT.host) for e in cls.VARIANT.extra_inputs if takes(cls.WRAPPED, e.name)]

    def _job(self, inputs: dict[str, Any]) -> LoadJob:
        return LoadJob.of(self._target(), inputs, self.their_inputs(inputs), self.CONTEXT)

    def _target(self) -> Target:
        return Target(self.VARIANT, self.WRAPPED, self.PACK)


def make_variant(
    wrapped: LoaderClass,
    variant: NodeVariant,
    context: LoadContext,
    pack: PackDevices | None = None,
    base: type[VariantNode] = VariantNode,
) -> type[VariantNode]:
    """The node class of one variant of a class, V1 or V3, whose pack has the ways that `pack` says."""
    attributes: dict[str, Any] = {
        "VARIANT": variant,
        "WRAPPED": wrapped,
        "PACK": context.packs.pack_of(wrapped, pack) if pack is not None else None,
        "CONTEXT": context,
        "FUNCTION": "load_async" if inspect.iscoroutinefunction(loader_function(wrapped)) else "load",
        "CATEGORY": f"{CATEGORY}/{'split' if variant.splits else 'device'}",
        "SEARCH_ALIASES": list(SPLITS_FOUND_BY if variant.splits else FOUND_BY),
        "DESCRIPTION": variant.description or _description(wrapped, variant),
        **_outputs(wrapped, variant.device_output),
    }
    for name in ("OUTPUT_NODE", "DEPRECATED", "EXPERIMENTAL"):
        if (value := getattr(wrapped, name, None)) is not None:
            attributes[name] = value
    node: type[VariantNode] = type(variant.node_id, (base,), attributes)
    devices = [added.name for added in (*node._ours(), *node._extra()) if added.is_device]
    node.VALIDATE_INPUTS = checking_devices(  # type: ignore[attr-defined]
        own_validation(wrapped), devices, node.known_devices(), node.their_inputs
    )
    if (fingerprint := own_fingerprint(wrapped)) is not None:
        ours = _fingerprint_async if inspect.iscoroutinefunction(fingerprint) else _fingerprint
        node.IS_CHANGED = staticmethod(partial(ours, fingerprint, node))  # type: ignore[attr-defined]
    return node


def _outputs(wrapped: LoaderClass, device_output: str) -> dict[str, Any]:
    """The wrapped class's outputs in ComfyUI's words, with one more for the device where that is wanted."""
    names = ("RETURN_TYPES", "RETURN_NAMES", "OUTPUT_IS_LIST", "OUTPUT_TOOLTIPS")
    outputs = {name: value for name in names if (value := getattr(wrapped, name, None)) is not None}
    if device_output:
        outputs.setdefault("RETURN_NAMES", outputs["RETURN_TYPES"])
        more = {
            "RETURN_TYPES": DEVICE_TYPE,
            "RETURN_NAMES": device_output,
            "OUTPUT_IS_LIST": False,
            "OUTPUT_TOOLTIPS": OUTPUT_TOOLTIP,
        }
        outputs = {name: (*value, more[name]) for name, value in outputs.items()}
    return outputs


def origin_of_ours(nodes: Iterable[type]) -> str:
    """What ComfyUI has set on `nodes` of this extension, which it imported: the front end shows it as their origin."""
    origins = (getattr(node, "RELATIVE_PYTHON_MODULE", "") for node in nodes)
    return next(filter(None, origins), "custom_nodes.multigpu")


def make_own_node(node: OwnNode, context: LoadContext) -> type:
    """A plugin's own node class, with its device inputs in place."""

    def input_types(cls: type) -> dict[str, dict[str, Any]]:
        inherited = _inherited_inputs(node.node_id, getattr(super(made, cls), "INPUT_TYPES", dict))
        devices = {each.name: each.spec for each in own_device_inputs(node, context.host)}
        return {**inherited, "required": {**inherited.get("required", {}), **devices}}

    own = getattr(node.node_class, "VALIDATE_INPUTS", None)
    made = type(
        node.node_id,
        (node.node_class,),
        {
            "INPUT_TYPES": classmethod(input_types),
            "VALIDATE_INPUTS": checking_devices(own, node.device_inputs, context.host.registry.resolve),
        },
    )
    return made


def _inherited_inputs(node_id: str, list_inputs: Callable[[], dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """A plugin's own inputs. ComfyUI lists all nodes in one request, and survives an Exception of one, nothing else."""
    try:
        return list_inputs()
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise RuntimeError(f"{node_id} cannot list its inputs: {type(error).__name__}") from error


def _fingerprint(own: Any, node: type[VariantNode], **inputs: Any) -> Any:
    """The wrapped class's fingerprint of its own inputs; a change of ours is seen by ComfyUI itself."""
    return own(**node.their_inputs(inputs))


async def _fingerprint_async(own: Any, node: type[VariantNode], **inputs: Any) -> Any:
    return await own(**node.their_inputs(inputs))


def _description(wrapped: LoaderClass, variant: NodeVariant) -> str:
    what = "its weights split over several devices" if variant.splits else "on the device that you choose"
    return f"{getattr(wrapped, 'DESCRIPTION', '') or ''}\n\n{wrapped.__name__}, {what}.".strip()
