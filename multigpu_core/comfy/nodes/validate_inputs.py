"""VALIDATE_INPUTS of our nodes: device names pass, and a wrapped class keeps its own check.

A workflow may name a device that this machine lacks: it passes here and fails at its node, with the devices that there
are. ComfyUI leaves to this function every input that is in its signature.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

TheirInputs = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Of a node's inputs, those that the wrapped class knows."""

_TAKES_ALL = inspect.Parameter.VAR_KEYWORD


def accepting_any_device(
    own: Callable[..., Any] | None, devices: Iterable[str], theirs: TheirInputs = dict
) -> classmethod[Any, ..., Any]:
    """VALIDATE_INPUTS that leaves the inputs `devices` unchecked and asks the wrapped class's `own` for the rest."""
    taken = list(inspect.signature(own).parameters.values()) if own is not None else []
    takes_all = any(parameter.kind is _TAKES_ALL for parameter in taken)
    names = [parameter.name for parameter in taken if parameter.kind is not _TAKES_ALL]

    def validate(cls: type, /, **inputs: Any) -> Any:
        if own is None:
            return True
        given = theirs(inputs)
        return own(**{name: given[name] for name in (given if takes_all else names) if name in given})

    async def validate_async(cls: type, /, **inputs: Any) -> Any:
        return await validate(cls, **inputs)

    check: Any = validate_async if inspect.iscoroutinefunction(own) else validate
    check.__signature__ = _signature([*names, *devices], takes_all)
    return classmethod(check)


def _signature(names: Iterable[str], takes_all: bool) -> inspect.Signature:
    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("cls", keyword)]
    parameters += [inspect.Parameter(name, keyword, default=None) for name in dict.fromkeys(names)]
    return inspect.Signature(parameters + [inspect.Parameter("others", _TAKES_ALL)] * takes_all)
