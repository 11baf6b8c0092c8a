"""A loader's node class, V1 or V3: the one place that knows how the two differ."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from comfy_api.internal import first_real_override
from comfy_api.latest import io

LoaderClass = type[Any]
"""V1 and V3 alike have INPUT_TYPES(), RETURN_TYPES and FUNCTION."""


def is_v3(node: LoaderClass) -> bool:
    return hasattr(node, "define_schema")


def loader_function(node: LoaderClass) -> Callable[..., Any]:
    """What loads: a V3 node's `execute`, or a V1 node's method by the name in FUNCTION."""
    function: Callable[..., Any] = node.execute if is_v3(node) else getattr(node(), node.FUNCTION)
    return function


def input_types_v1(node: LoaderClass) -> dict[str, dict[str, Any]]:
    """A class's inputs as a V1 node lists them: V3 writes its hidden ones in another way."""
    inputs: dict[str, dict[str, Any]] = node.INPUT_TYPES()
    if not is_v3(node) or "hidden" not in inputs:
        return inputs
    return {**inputs, "hidden": {name: spec[0] for name, spec in inputs["hidden"].items()}}


def call_loader(node: LoaderClass, inputs: Mapping[str, Any]) -> Any:
    """Call what loads. A V3 class finds its hidden inputs on itself, as ComfyUI's executor puts them there."""
    hidden = input_types_v1(node).get("hidden", {}) if is_v3(node) else {}
    if not hidden:
        return loader_function(node)(**inputs)
    values = {io.Hidden[name]: inputs[name] for name in hidden if name in inputs}
    clone = node.PREPARE_CLASS_CLONE({"hidden_inputs": values})
    return clone.execute(**{name: value for name, value in inputs.items() if name not in hidden})


def takes(node: LoaderClass, name: str) -> bool:
    """Whether what loads can be given an input of this name, listed or not."""
    function = node.execute if is_v3(node) else getattr(node, node.FUNCTION)
    parameters = inspect.signature(function).parameters
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
        return getattr(node, v3_name) if first_real_override(node, v3_name) is not None else None
    return getattr(node, v1_name, None)
