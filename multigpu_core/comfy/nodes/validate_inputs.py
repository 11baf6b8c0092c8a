"""VALIDATE_INPUTS of our nodes: a device that is not there is refused before the prompt runs, on its node.

ComfyUI leaves to this function every input that is in its signature, so our answer, which says why a device is missing,
takes the place of its own. A wrapped class keeps its own check.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from multigpu.multigpu_core.allocation.language.device_names import KnownDevices
from multigpu.multigpu_core.allocation.language.errors import AllocationError
from multigpu.multigpu_core.allocation.language.parser import parse_donors
from multigpu.multigpu_core.allocation.language.source_span import SourceSpan

TheirInputs = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Of a node's inputs, those that the wrapped class knows."""

_TAKES_ALL = inspect.Parameter.VAR_KEYWORD


def checking_devices(
    own: Callable[..., Any] | None, devices: Iterable[str], known: KnownDevices, theirs: TheirInputs = dict
) -> classmethod[Any, ..., Any]:
    """VALIDATE_INPUTS that checks the inputs `devices`, and asks the wrapped class's `own` for the rest."""
    taken = list(inspect.signature(own).parameters.values()) if own is not None else []
    takes_all = any(parameter.kind is _TAKES_ALL for parameter in taken)
    names = [parameter.name for parameter in taken if parameter.kind is not _TAKES_ALL]
    devices = tuple(devices)

    def validate(cls: type, /, **inputs: Any) -> Any:
        if fault := _fault_of([inputs.get(name) for name in devices], known):
            return fault
        if own is None:
            return True
        given = theirs(inputs)
        return own(**{name: given[name] for name in (given if takes_all else names) if name in given})

    async def validate_async(cls: type, /, **inputs: Any) -> Any:
        answer = validate(cls, **inputs)
        return await answer if inspect.isawaitable(answer) else answer

    check: Any = validate_async if inspect.iscoroutinefunction(own) else validate
    check.__signature__ = _signature([*names, *devices], takes_all)
    return classmethod(check)


def _fault_of(chosen: Iterable[object], known: KnownDevices) -> str:
    """Why the first device that is not there is missing; empty if all are there. A linked one is not known yet."""
    for device in chosen:
        if isinstance(device, str) and device:
            try:
                parse_donors(SourceSpan.of(device, "Device"), known)  # one device, or donors in a list
            except AllocationError as error:
                return str(error)
    return ""


def _signature(names: Iterable[str], takes_all: bool) -> inspect.Signature:
    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("cls", keyword)]
    parameters += [inspect.Parameter(name, keyword, default=None) for name in dict.fromkeys(names)]
    return inspect.Signature(parameters + [inspect.Parameter("others", _TAKES_ALL)] * takes_all)
