"""Copy what a model's patches hold to the model's compute device, for the length of a sampling.

Nodes such as IP-adapters set functions into a model that hold modules and tensors on the device that ComfyUI chose for
that node. Copies on the model's device take their places while it samples; what was there comes back, also after an
error or an interrupt. What a patch holds on the cpu stays: it would be there on a machine with one device, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import structlog
import torch
from torch import Tensor, nn

from multigpu.multigpu_core.allocation import readable_bytes
from multigpu.multigpu_core.comfy.host.compatibility import controlnet, model_patcher
from multigpu.multigpu_core.comfy.host.compatibility import model_management as mm
from multigpu.multigpu_core.comfy.split.cond_batch import WRAPPER_KEY

log = structlog.get_logger("multigpu")

PATCHES = ("patches", "patches_replace")
_ATOMS = (str, bytes, int, float, type(None), torch.device, torch.dtype)
_DEEPEST = 3
"""Objects inside objects that are gone through: a patch, what it works with, and what that works with."""


@contextmanager
def holdings_at(device: torch.device, model: nn.Module, options: Mapping[str, Any]) -> Iterator[None]:
    """All that functions in a model's options hold on other accelerators is on `device` until the block is left."""
    managed = [model, *(loaded.model.model for loaded in mm.current_loaded_models if loaded.model is not None)]
    found: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.device != device and is_on_accelerator(tensor):
            found[id(tensor)] = tensor
        return tensor

    Holdings(note, managed).visit(options)
    if not found:
        yield
        return
    size = sum(tensor.nbytes for tensor in found.values())
    mm.free_memory(size, device)
    copies: dict[int, Tensor] = {}

    def bring(tensor: Tensor) -> Tensor:
        if id(tensor) in found and id(tensor) not in copies:
            copies[id(tensor)] = _copied(tensor, device)
        return copies.get(id(tensor), tensor)

    holdings = Holdings(bring, managed)
    try:
        holdings.visit(options)
        _tell(size, model, device, found.values())
        yield
    finally:
        holdings.restore()


class Holdings:
    """One walk through functions, objects and modules: what they hold is given to `replace`, and may be restored."""

    def __init__(self, replace: Callable[[Tensor], Tensor], managed: Iterable[nn.Module]) -> None:
        """Modules in `managed` are ComfyUI's to move."""
        self._replace = replace
        self._managed = {id(module) for each in managed for module in each.modules()}
        self._patcher_class = model_patcher.ModelPatcher
        self._seen_to_elsewhere = (self._patcher_class, controlnet.ControlBase, ModuleType, type)
        self._seen: dict[int, Any] = {}
        self._undo: list[Callable[[], object]] = []

    def visit(self, value: Any, depth: int = 0) -> Any:
        """`value` with every tensor in it replaced: in place, but for tuples, which are made anew."""
        if isinstance(value, Tensor):
            return self._replace(value)
        if isinstance(value, _ATOMS) or id(value) in self._seen or self._is_others(value, depth):
            return value
        self._seen[id(value)] = value
        if isinstance(value, tuple):
            items = [self.visit(item, depth) for item in value]
            is_same = all(new is old for new, old in zip(items, value, strict=True))
            return value if is_same else type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        places = list(_places(value))
        for held, _ in places:
            if isinstance(held, self._patcher_class):  # its model often lies beside it
                self._managed.update(id(module) for module in held.model.modules())
        depth += _is_object(value)
        for held, put in places:
            if (new := self.visit(held, depth)) is not held:
                self._undo.append(partial(put, held))
                put(new)
        return value

    def restore(self) -> None:
        """Put back what was replaced."""
        while self._undo:
            self._undo.pop()()

    def _is_others(self, value: Any, depth: int) -> bool:
        if isinstance(value, self._seen_to_elsewhere) or id(value) in self._managed:
            return True
        # A patch with `to` is moved by ComfyUI, as it says itself.
        return _is_object(value) and (depth >= _DEEPEST or (depth == 0 and hasattr(type(value), "to")))


def is_on_accelerator(tensor: Tensor) -> bool:
    return tensor.device.type not in ("cpu", "meta")


def _is_object(value: Any) -> bool:
    """Whether it is an object of a class of somebody's own, which may hold the whole world."""
    return hasattr(value, "__dict__") and not isinstance(value, (nn.Module, FunctionType, partial))


def _places(value: Any) -> Iterator[tuple[Any, Callable[[Any], object]]]:
    """What a value holds, each with the function that puts another in its place."""
    if isinstance(value, dict):
        for key, held in list(value.items()):
            if key != WRAPPER_KEY:
                yield held, partial(value.__setitem__, key)
    elif isinstance(value, list):
        for index, held in enumerate(value):
            yield held, partial(value.__setitem__, index)
    elif isinstance(value, MethodType):
        for held in (value.__self__, value.__func__):
            yield held, _nowhere
    elif isinstance(value, partial):
        state: Any = value
        for held in (value.func, value.keywords):
            yield held, _nowhere
        yield value.args, lambda args: state.__setstate__((value.func, args, value.keywords, vars(value)))
    elif isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            if cell != CellType():  # one that is not filled yet
                yield cell.cell_contents, partial(setattr, cell, "cell_contents")
    elif hasattr(value, "__dict__"):
        yield from _places(vars(value))  # of a module, these are its parameters, buffers and modules, too


def _nowhere(held: Any) -> None:
    """What is no tensor is changed in place, and never put."""


def _copied(tensor: Tensor, device: torch.device) -> Tensor:
    copied = tensor.to(device)
    return nn.Parameter(copied, tensor.requires_grad) if type(tensor) is nn.Parameter else copied


def _tell(size: int, model: nn.Module, device: torch.device, tensors: Iterable[Tensor]) -> None:
    name, origins = type(model).__name__, sorted({str(tensor.device) for tensor in tensors})
    log.info(
        "patches_brought",
        message=f"Patches of {name} hold {readable_bytes(size)} on {', '.join(origins)}: copied to {device} for this "
        "sampling.",
        model=name,
        devices=[*origins, str(device)],
        copied_bytes=size,
    )
