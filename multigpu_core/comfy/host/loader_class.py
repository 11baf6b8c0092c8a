"""A loader's node class, V1 or V3: the one place that knows how the two differ."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from multigpu.multigpu_core.comfy.host.compatibility import comfy_api, comfy_api_internal

LoaderClass = type[Any]
"""V1 and V3 alike have INPUT_TYPES(), RETURN_TYPES and FUNCTION."""


def is_v3(node: LoaderClass) -> bool:
    return hasattr(node, "define_schema")


def loader_function(node: LoaderClass) -> Callable[..., Any]:
    """What loads, to be looked at: a V3 node's `execute`, or a V1 node's method by the name in FUNCTION."""
    function: Callable[..., Any] = node.execute if is_v3(node) else getattr(node, node.FUNCTION)
    return function


class LoaderInstances:
    """The instances of one wrapped class that one node of ours calls: one for each device.

    ComfyUI keeps the instance of a V1 node for as long as the node is in the prompts, and loaders keep files and models
    in it. What they keep there fits one device and one split, so another split on the same devices begins anew. The
    methods of V3 classes are class methods: what those keep is in the class.
    """

    def __init__(self) -> None:
        self._instances: dict[Hashable, tuple[object, Any]] = {}

    def of(self, node: LoaderClass, devices: Hashable, settings: object) -> Any:
        """The instance for these devices; a new one where they were last asked for with other `settings`."""
        known = self._instances.get(devices)
        if known is None or known[0] != settings:
            known = self._instances[devices] = settings, node()
        return known[1]


def input_types_v1(node: LoaderClass) -> dict[str, dict[str, Any]]:
    """A class's inputs as a V1 node lists them: V3 writes its hidden ones in another way."""
    inputs: dict[str, dict[str, Any]] = node.INPUT_TYPES()
    if not is_v3(node) or "hidden" not in inputs:
        return inputs
    return {**inputs, "hidden": {name: spec[0] for name, spec in inputs["hidden"].items()}}


def call_loader(node: LoaderClass, inputs: Mapping[str, Any], instance: Any = None) -> Any:
    """Call what loads: of a V1 class in `instance`, or in a new one.

    A V3 class finds its hidden inputs on itself, as ComfyUI's executor puts them there.
    """
    if not is_v3(node):
        return getattr(node() if instance is None else instance, node.FUNCTION)(**inputs)
    hidden = input_types_v1(node).get("hidden", {})
    if not hidden:
        return node.execute(**inputs)
    values = {comfy_api.io.Hidden[name]: inputs[name] for name in hidden if name in inputs}
    clone = node.PREPARE_CLASS_CLONE({"hidden_inputs": values})
    return clone.execute(**{name: value for name, value in inputs.items() if name not in hidden})


def takes(node: LoaderClass, name: str) -> bool:
    """Whether what loads can be given an input of this name, listed or not."""
    parameters = inspect.signature(loader_function(node)).parameters
    return name in parameters or any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())


def own_validation(node: LoaderClass) -> Callable[..., Any] | None:
    """The class's own check of its inputs, if it has one."""
    return _own(node, "VALIDATE_INPUTS", "validate_inputs")


def own_fingerprint(node: LoaderClass) -> Callable[..., Any] | None:
    """The class's own say on whether it has to run again, if it has one."""
    return _own(node, "IS_CHANGED", "fingerprint_inputs")


def _own(node: LoaderClass, v1_name: str, v3_name: str) -> Callable[..., Any] | None:
    """V3's base class has these methods as well, where they only raise."""
    if is_v3(node):
        return getattr(node, v3_name) if comfy_api_internal.first_real_override(node, v3_name) is not None else None
    return getattr(node, v1_name, None)
