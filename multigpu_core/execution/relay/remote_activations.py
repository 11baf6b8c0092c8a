"""Activations that stay on a donor between two of its blocks, and what the model's own code does with them there.

A remote run is a stretch of the forward in which consecutive blocks compute on one donor. Between them the model adds
residuals, slices, concatenates; to that code the activations are tensors of the compute device, as they always were:

    block ──▶ CarriedTensor ──▶ img[:, :n] += control[i] ──▶ CarriedTensor ──▶ next block of the donor
                                          └─ sent along to the donor

No mode is entered for that, so nothing outlives an exception: a carried tensor is a tensor subclass and sees the
functions that it is given to. When the remote run is over, what the model still holds comes home, each tensor in place.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from multigpu.multigpu_core.execution.device_copies import DeviceCopies
from multigpu.multigpu_core.execution.nested import replace_tensors

from .write_back import WrittenCopies, WrittenCopy

_PLAINLY = torch._C.DisableTorchFunctionSubclass
_DEVICE = Tensor.device.__get__
_OPERATORS = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift"
_IN_PLACE = frozenset({"__setitem__", "__set__", *(f"__i{operator}__" for operator in _OPERATORS.split())})


class RemoteActivations:
    """Where activations are now, and those of them that the model holds."""

    def __init__(self, compute: torch.device, device_copies: DeviceCopies) -> None:
        self.compute = compute
        self.device_copies = device_copies
        self.device: torch.device | None = None
        """The donor that computes; None while the compute device does."""
        self.written_copies = WrittenCopies(device_copies)
        self._carried: WeakValueDictionary[int, CarriedTensor] = WeakValueDictionary()

    def carry(self, tensor: Tensor) -> Tensor:
        """`tensor` as the model gets it; one that is not on the remote run's donor, or carried already, as it is."""
        if isinstance(tensor, CarriedTensor) or tensor.device != self.device:
            return tensor
        carried = tensor.as_subclass(CarriedTensor)
        carried.remote = self
        carried.written = self.written_copies.of_copy(tensor)
        self._carried[id(carried)] = carried
        return carried

    def put_down(self, carried: CarriedTensor, device: torch.device) -> Tensor:
        """The plain tensor behind a carried one, for a block on `device`; it is moved there if it is elsewhere."""
        with _PLAINLY():
            is_elsewhere = carried.device != device
            if is_elsewhere:
                with torch.inference_mode(carried.is_inference()):  # so that torch goes on counting its changes
                    carried.data = self.device_copies.to(carried, device)
            plain = carried.as_subclass(Tensor)
            if is_elsewhere and carried.written is not None:
                carried.written.follow(plain)
            return plain

    def bring_home(self, carried: CarriedTensor) -> Tensor:
        """Make a carried tensor an ordinary one of the compute device: the same object, for whoever holds it.

        If a block returned what it was given, changed in place, both are one memory again.
        """
        original = None
        with _PLAINLY():
            if carried.written is not None:
                carried.written.synchronise()
                original = carried.written.original
            carried.data = self.device_copies.to(carried, self.compute) if original is None else original
            carried.__class__ = Tensor  # type: ignore[assignment]
        del carried.remote, carried.written
        self._carried.pop(id(carried), None)
        return carried

    def call(self, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """What the model's own code does with a carried tensor."""
        with _PLAINLY():
            if function == _DEVICE:  # what the model makes goes where its other tensors are
                return self.compute
            if self.device is None:
                self.end()
                return function(*args, **kwargs)
            args, kwargs = self.on_one_device(function, args, kwargs)
            result = replace_tensors(function(*args, **kwargs), self.carry)
            self.written_copies.synchronise()
            return result

    def end(self) -> None:
        """The next module computes on the compute device: what the model still holds of the remote run goes there."""
        self.device = None
        for carried in list(self._carried.values()):
            self.bring_home(carried)
        self.written_copies.synchronise()
        self.written_copies.clear()

    def on_one_device(self, function: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The operands of a function of the model's own code, brought together where its result belongs.

        That is the donor, but the compute device for what changes a tensor there in place, or takes a parameter there.
        """
        own = [tensor for tensor in _tensors((args, kwargs)) if self._is_home(tensor)]
        if not own:
            return args, kwargs
        changed = _changed_in_place(function, args, kwargs)
        at_home = any(tensor is changed or isinstance(tensor, nn.Parameter) for tensor in own)
        target = self.compute if at_home or self.device is None else self.device

        def bring(tensor: Tensor) -> Tensor:
            is_movable = isinstance(tensor, CarriedTensor) or self._is_home(tensor)
            return self.device_copies.to(tensor, target) if is_movable and tensor.device != target else tensor

        brought = replace_tensors((args, kwargs), bring)
        return brought[0], brought[1]

    def _is_home(self, tensor: Tensor) -> bool:
        """Whether a tensor is on the compute device; any device takes a number that is on the cpu."""
        if isinstance(tensor, CarriedTensor) or tensor.device != self.compute:
            return False
        return tensor.dim() > 0 or tensor.device.type != "cpu"


class CarriedTensor(Tensor):
    """A tensor on a donor that the model's own code takes for one on the compute device."""

    remote: RemoteActivations | None = None
    written: WrittenCopy | None = None
    """The pair of which it is the copy, if a block changed what it was given in place and returned it."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operands = (tensor for tensor in _tensors((args, kwargs)) if isinstance(tensor, CarriedTensor))
        remote = next((tensor.remote for tensor in operands if tensor.remote is not None), None)
        if remote is None:  # a copy that somebody made of one
            with _PLAINLY():
                return func(*args, **kwargs)
        return remote.call(func, args, kwargs)


def _tensors(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    replace_tensors(tree, note)
    return found


def _changed_in_place(function: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    """The tensor that a function of torch writes into, by torch's conventions for names and arguments."""
    name = getattr(function, "__name__", "").partition(".")[0]
    if "out" in kwargs:
        written = kwargs["out"]
    elif name in _IN_PLACE or (name.endswith("_") and not name.endswith("__")) or kwargs.get("inplace"):
        written = args[0] if args else None
    else:
        return None
    return next(iter(_tensors(written)), None)
