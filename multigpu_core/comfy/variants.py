"""Makes a node from a loader class and a variant: the one mechanism behind all our nodes.

The node *has* the wrapped class rather than being one: it reads the class's inputs and outputs when ComfyUI asks for
them, adds its own, and calls the class with what is left. So V1 classes, V3 classes, and a class whose inputs change
with its next version are all served alike.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

from multigpu.multigpu_core.plugins.loaders import NodeVariant, OwnNode

from .inputs import InputSpec, added_inputs, device_input
from .loader_class import LoaderClass, loader_function, own_fingerprint, own_validation
from .loading import LoadContext, LoadJob
from .validation import accepting_any_device

CATEGORY = "multigpu"
INHERITED = (
    "RETURN_TYPES",
    "RETURN_NAMES",
    "OUTPUT_IS_LIST",
    "OUTPUT_TOOLTIPS",
    "OUTPUT_NODE",
    "DEPRECATED",
    "EXPERIMENTAL",
)
"""What a variant is, because the class that it wraps is."""


class VariantNode:
    """Base of the nodes made here; each subclass is one variant of one loader."""

    VARIANT: NodeVariant
    WRAPPED: LoaderClass
    CONTEXT: LoadContext
    CATEGORY = CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:  # noqa: N802  # ComfyUI's name
        inputs = {section: dict(specs) for section, specs in cls.WRAPPED.INPUT_TYPES().items()}
        for name, _ in cls.VARIANT.fixed_inputs:
            inputs["required"].pop(name)
        for added in added_inputs(cls.VARIANT, cls.CONTEXT.host):
            inputs.setdefault(added.section, {})[added.name] = added.spec
        return inputs

    def load(self, **inputs: Any) -> Any:
        job = self._job(inputs)
        with job.scope(self.CONTEXT):
            result = loader_function(self.WRAPPED)(**self.their_inputs(inputs))
            return job.finish(result, self.CONTEXT)

    async def load_async(self, **inputs: Any) -> Any:
        job = self._job(inputs)
        with job.scope(self.CONTEXT, alone=False):
            result = await loader_function(self.WRAPPED)(**self.their_inputs(inputs))
            return job.finish(result, self.CONTEXT)

    @classmethod
    def their_inputs(cls, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What of a node's inputs the wrapped class is given."""
        ours = {added.name for added in added_inputs(cls.VARIANT, cls.CONTEXT.host)}
        theirs = {name: value for name, value in inputs.items() if name not in ours}
        return {**theirs, **dict(cls.VARIANT.fixed_inputs), **_replaced_inputs(cls.WRAPPED, ours)}

    def _job(self, inputs: dict[str, Any]) -> LoadJob:
        return LoadJob.of(self.VARIANT, tuple(self.WRAPPED.RETURN_TYPES), inputs, self.CONTEXT)


def make_variant(wrapped: LoaderClass, variant: NodeVariant, context: LoadContext) -> type[VariantNode]:
    """The node class of one variant of a loader class, V1 or V3."""
    attributes: dict[str, Any] = {
        "VARIANT": variant,
        "WRAPPED": wrapped,
        "CONTEXT": context,
        "FUNCTION": "load_async" if inspect.iscoroutinefunction(loader_function(wrapped)) else "load",
        "DESCRIPTION": variant.description or _description(wrapped, variant),
    }
    for name in INHERITED:
        if (value := getattr(wrapped, name, None)) is not None:
            attributes[name] = value
    node = type(variant.node_id, (VariantNode,), attributes)
    devices = [added.name for added in added_inputs(variant, context.host) if added.is_device]
    node.VALIDATE_INPUTS = accepting_any_device(own_validation(wrapped), devices, node.their_inputs)  # type: ignore[attr-defined]
    if (fingerprint := own_fingerprint(wrapped)) is not None:
        node.IS_CHANGED = staticmethod(partial(_fingerprint, fingerprint, node))  # type: ignore[attr-defined]
    return node


def make_own_node(node: OwnNode, context: LoadContext) -> type:
    """A plugin's own node class, with its device inputs in place."""

    def input_types(cls: type) -> dict[str, dict[str, Any]]:
        inherited: dict[str, dict[str, Any]] = getattr(super(made, cls), "INPUT_TYPES", dict)()
        devices = {name: device_input(name, "required", context.host).spec for name in node.device_inputs}
        return {**inherited, "required": {**inherited.get("required", {}), **devices}}

    own = getattr(node.node_class, "VALIDATE_INPUTS", None)
    made = type(
        node.node_id,
        (node.node_class,),
        {
            "INPUT_TYPES": classmethod(input_types),
            "VALIDATE_INPUTS": accepting_any_device(own, node.device_inputs),
        },
    )
    return made


def _fingerprint(own: Any, node: type[VariantNode], **inputs: Any) -> Any:
    """The wrapped class's fingerprint of its own inputs; a change of ours is seen by ComfyUI itself."""
    return own(**node.their_inputs(inputs))


def _replaced_inputs(wrapped: LoaderClass, ours: set[str]) -> dict[str, str]:
    """What the wrapped loader gets for inputs of its own that ours replace: its default choice of device."""
    inputs = wrapped.INPUT_TYPES()
    own = {name: spec for section in ("required", "optional") for name, spec in inputs.get(section, {}).items()}
    return {name: "default" for name, spec in own.items() if name in ours and "default" in InputSpec.options(spec)}


def _description(wrapped: LoaderClass, variant: NodeVariant) -> str:
    what = "its weights split over several devices" if variant.splits else "on the device that you choose"
    return f"{getattr(wrapped, 'DESCRIPTION', '') or ''}\n\n{wrapped.__name__}, {what}.".strip()
