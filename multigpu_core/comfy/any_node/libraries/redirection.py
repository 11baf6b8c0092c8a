"""Map strings and numbers that name ComfyUI's own device, in torch calls of packs that write ``"cuda:0"``.

On only for packs that plugins.toml names, and where the cpu is chosen: each torch call in the node then takes a few
microseconds longer, and compiled code is compiled once more. Torch device objects are left alone, because ComfyUI's
own memory management passes those.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch.overrides import TorchFunctionMode

from multigpu.multigpu_core.comfy.any_node.choice import Choice, choosing, current_choice

from .interception import Function, Intercepted

_BY_POSITION = frozenset({"to", "cuda", "npu", "xpu", "mlu"})
"""Methods of tensors whose first argument may be a device."""
_MOVES_BY_NAME = frozenset({"cuda", "npu", "xpu", "mlu"})
"""Methods that name a family; with the cpu chosen they move to the cpu."""

_KEYWORDS = ("device", "map_location")


@contextmanager
def redirecting(choice: Choice) -> Iterator[None]:
    """Map the devices in torch calls of this thread where the choice wants that."""
    if not choice.redirects:
        yield
        return
    with _Redirection():
        yield


class _Redirection(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        choice = current_choice()
        if choice is None or not choice.redirects:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in _MOVES_BY_NAME and choice.changes_family:
            return args[0].to(choice.device)
        return func(*_mapped_arguments(choice, name, args), **_mapped_keywords(choice, kwargs))


def _mapped_arguments(choice: Choice, name: str, args: Any) -> Any:
    if name in _BY_POSITION and len(args) > 1 and isinstance(args[1], (str, int)):
        return (args[0], choice.instead_of(args[1]), *args[2:])
    return args


def _mapped_keywords(choice: Choice, kwargs: dict[str, Any]) -> dict[str, Any]:
    mapped = {name: choice.instead_of(kwargs[name]) for name in _KEYWORDS if isinstance(kwargs.get(name), (str, int))}
    return {**kwargs, **mapped}


def _module_to(original: Function) -> Function:
    def to(module: Any, *args: Any, **kwargs: Any) -> Any:
        if (choice := _redirecting_choice()) is not None:
            args, kwargs = _mapped_arguments(choice, "to", (module, *args))[1:], _mapped_keywords(choice, kwargs)
        return original(module, *args, **kwargs)

    return to


def _module_cuda(original: Function) -> Function:
    def cuda(module: Any, device: Any = None) -> Any:
        choice = _redirecting_choice()
        if choice is None:
            return original(module, device)
        if choice.changes_family:
            return module.to(choice.device)
        return original(module, choice.instead_of(device))

    return cuda


def _set_device(original: Function) -> Function:
    def set_device(device: Any) -> None:
        choice = _redirecting_choice()
        if choice is None:
            original(device)
        elif not choice.changes_family:
            original(choice.instead_of(device))

    return set_device


def _load(original: Function) -> Function:
    def load(*args: Any, **kwargs: Any) -> Any:
        if (choice := _redirecting_choice()) is not None:
            kwargs = _mapped_keywords(choice, kwargs)
            if len(args) > 1 and isinstance(args[1], str):  # map_location
                args = (args[0], choice.instead_of(args[1]), *args[2:])
        return original(*args, **kwargs)

    return load


def _redirecting_choice() -> Choice | None:
    choice = current_choice()
    return choice if choice is not None and choice.redirects else None


def without_redirection(original: Function) -> Function:
    """A function of ComfyUI that moves or samples models of its own: no device in it is mapped."""

    def called(*args: Any, **kwargs: Any) -> Any:
        choice = _redirecting_choice()
        if choice is None:
            return original(*args, **kwargs)
        with choosing(replace(choice, redirects=False)):
            return original(*args, **kwargs)

    return called


REDIRECTING = (
    Intercepted("torch.nn.modules.module", "Module.to", _module_to),
    Intercepted("torch.nn.modules.module", "Module.cuda", _module_cuda),
    Intercepted("torch.cuda", "set_device", _set_device),
    Intercepted("torch.serialization", "load", _load),
    Intercepted("torch", "load", _load),
    Intercepted("torch.jit", "load", _load),
)
