"""Makes a node from a loader class and a variant: the one mechanism behind all our nodes.

The node *has* the wrapped class rather than being one: it reads the class's inputs and outputs when ComfyUI asks for
them, adds its own, and calls the class with what is left. So V1 classes, V3 classes, and a class whose inputs change
with its next version are all served alike.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from multigpu.multigpu_core.plugins.loaders import NodeVariant, OwnNode

from .inputs import InputSpec, added_inputs, device_input
from .loading import LoadContext, LoadJob

CATEGORY = "multigpu"


class VariantNode:
    """Base of the nodes made here; each subclass is one variant of one loader."""

    VARIANT: NodeVariant
    WRAPPED: type
    CONTEXT: LoadContext
    CATEGORY = CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:  # noqa: N802  # ComfyUI's name
        inputs = {section: dict(specs) for section, specs in cls.WRAPPED.INPUT_TYPES().items()}  # type: ignore[attr-defined]
        for name, _ in cls.VARIANT.fixed_inputs:
            inputs["required"].pop(name)
        for added in added_inputs(cls.VARIANT, cls.CONTEXT.host):
            inputs.setdefault(added.section, {})[added.name] = added.spec
        return inputs

    @classmethod
    def job(cls, inputs: dict[str, Any]) -> tuple[LoadJob, dict[str, Any]]:
        """Read our inputs, and say what is left for the wrapped loader."""
        ours = {added.name for added in added_inputs(cls.VARIANT, cls.CONTEXT.host)}
        theirs = {name: value for name, value in inputs.items() if name not in ours}
        theirs.update(cls.VARIANT.fixed_inputs)
        theirs.update(_replaced_inputs(cls.WRAPPED, ours))
        return LoadJob.of(cls.VARIANT, tuple(cls.WRAPPED.RETURN_TYPES), inputs, cls.CONTEXT), theirs  # type: ignore[attr-defined]

    def load(self, **inputs: Any) -> Any:
        job, theirs = self.job(inputs)
        with job.scope(self.CONTEXT):
            result = _loader_function(self.WRAPPED)(**theirs)
        return job.finish(result, self.CONTEXT)

    async def load_async(self, **inputs: Any) -> Any:
        job, theirs = self.job(inputs)
        with job.scope(self.CONTEXT):
            result = await _loader_function(self.WRAPPED)(**theirs)
        return job.finish(result, self.CONTEXT)


def make_variant(wrapped: type, variant: NodeVariant, context: LoadContext) -> type[VariantNode]:
    """The node class of one variant of a loader class, V1 or V3."""
    devices = [added.name for added in added_inputs(variant, context.host) if added.is_device]
    is_async = inspect.iscoroutinefunction(_loader_function(wrapped))
    attributes: dict[str, Any] = {
        "VARIANT": variant,
        "WRAPPED": wrapped,
        "CONTEXT": context,
        "FUNCTION": "load_async" if is_async else "load",
        "DESCRIPTION": variant.description or _description(wrapped, variant),
        "VALIDATE_INPUTS": _accepting_any_device(wrapped, devices),
    }
    for name in ("RETURN_TYPES", "RETURN_NAMES", "OUTPUT_IS_LIST", "OUTPUT_TOOLTIPS"):
        if (value := getattr(wrapped, name, None)) is not None:
            attributes[name] = value
    if (is_changed := getattr(wrapped, "IS_CHANGED", None)) is not None:
        attributes["IS_CHANGED"] = staticmethod(is_changed)
    return type(variant.node_id, (VariantNode,), attributes)


def make_own_node(node: OwnNode, context: LoadContext) -> type:
    """A plugin's own node class, with its device inputs in place."""

    def input_types(cls: type) -> dict[str, dict[str, Any]]:
        inherited: dict[str, dict[str, Any]] = getattr(super(made, cls), "INPUT_TYPES", dict)()
        devices = {name: device_input(name, "required", context.host).spec for name in node.device_inputs}
        return {**inherited, "required": {**inherited.get("required", {}), **devices}}

    made = type(
        node.node_id,
        (node.node_class,),
        {
            "INPUT_TYPES": classmethod(input_types),
            "VALIDATE_INPUTS": _accepting_any_device(node.node_class, list(node.device_inputs)),
        },
    )
    return made


def _loader_function(wrapped: type) -> Any:
    """The wrapped loader's callable: a V3 node's `execute`, or a V1 node's method by the name in FUNCTION."""
    if hasattr(wrapped, "define_schema"):
        return wrapped.execute  # type: ignore[attr-defined]
    return getattr(wrapped(), wrapped.FUNCTION)  # type: ignore[attr-defined]


def _replaced_inputs(wrapped: type, ours: set[str]) -> Mapping[str, Any]:
    """What the wrapped loader gets for inputs of its own that ours replace: its default choice of device."""
    inputs = wrapped.INPUT_TYPES()  # type: ignore[attr-defined]
    own = {name: spec for section in ("required", "optional") for name, spec in inputs.get(section, {}).items()}
    return {name: "default" for name, spec in own.items() if name in ours and "default" in InputSpec.options(spec)}


def _accepting_any_device(wrapped: type, devices: list[str]) -> classmethod[Any, Any, Any]:
    """VALIDATE_INPUTS that takes the check of device names over from ComfyUI.

    A workflow may name a device that this machine lacks: it passes here and fails at its node, with the devices that
    there are. ComfyUI leaves the inputs in this function's signature unchecked; a validation of the wrapped class's own
    still runs.
    """
    own = getattr(wrapped, "VALIDATE_INPUTS", None)
    parameters = [inspect.Parameter("cls", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    taken = list(inspect.signature(own).parameters.values()) if own is not None else []
    names = dict.fromkeys([*(p.name for p in taken), *devices])

    def validate(cls: type, /, **inputs: Any) -> Any:
        if own is None:
            return True
        return own(**{p.name: inputs[p.name] for p in taken if p.name in inputs})

    parameters += [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None) for n in names]
    validate.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return classmethod(validate)


def _description(wrapped: type, variant: NodeVariant) -> str:
    what = "its weights split over several devices" if variant.splits else "on the device that you choose"
    return f"{getattr(wrapped, 'DESCRIPTION', '') or ''}\n\n{wrapped.__name__}, {what}.".strip()
