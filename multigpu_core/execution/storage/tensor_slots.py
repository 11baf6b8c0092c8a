"""The tensors of a live model by the place that holds them, so that they can be moved one at a time."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from multigpu.multigpu_core.allocation.inventory.stored_size import tensor_bytes


class TensorSlot:
    """One parameter or buffer: the module that owns it and its attribute there.

    It does not keep its owner alive: hooks on the owner hold slots, and a model must be freed with its last patcher,
    not by some later garbage collection.
    """

    __slots__ = ("_owner", "attribute", "name")

    def __init__(self, name: str, owner: nn.Module, attribute: str) -> None:
        self.name = name
        self.attribute = attribute
        self._owner = weakref.ref(owner)

    @property
    def owner(self) -> nn.Module:
        owner = self._owner()
        if owner is None:
            raise ReferenceError(f"the model that held {self.name} is gone")
        return owner

    @property
    def holder(self) -> dict[str, Any]:
        """The owner's dict that holds the tensor: that of its parameters or that of its buffers."""
        owner = self.owner
        return owner._parameters if owner._parameters.get(self.attribute) is not None else owner._buffers

    @property
    def tensor(self) -> torch.Tensor:
        tensor: torch.Tensor = self.holder[self.attribute]
        return tensor

    def put(self, tensor: torch.Tensor) -> None:
        """Let the owner hold `tensor` here."""
        self.holder[self.attribute] = self.fitting(tensor)

    def fitting(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` as the owner can hold it here: a parameter stays a parameter, whatever tensor class it is of."""
        is_parameter = self.attribute in self.owner._parameters
        if not is_parameter or isinstance(tensor, nn.Parameter):
            return tensor
        return nn.Parameter(tensor, requires_grad=False)


def move_slots(slots: Iterable[TensorSlot], device: torch.device) -> None:
    """Store the tensors of some slots on `device`, one by one; names of one tensor stay names of one tensor.

    The copy that a tensor leaves behind is freed as soon as nobody else holds it.
    """
    for same in slots_by_tensor(slots):
        put_all(same, _on_device(same[0].tensor, device))


def put_all(slots: Iterable[TensorSlot], tensor: torch.Tensor) -> None:
    """Put one tensor in the place of each of these names for one."""
    first, *others = slots
    first.put(tensor)
    for other in others:
        other.put(first.tensor)


def stored_bytes(slots: Iterable[TensorSlot]) -> Iterator[tuple[torch.device, int]]:
    """Device and size in bytes of each tensor in some slots; one that has several names comes once."""
    for first, *_ in slots_by_tensor(slots):
        tensor = first.tensor
        if not tensor.is_meta:
            yield tensor.device, tensor_bytes(tensor)


def slots_by_tensor(slots: Iterable[TensorSlot]) -> Iterable[list[TensorSlot]]:
    """The slots in groups, one for each tensor that they hold."""
    groups: dict[int, list[TensorSlot]] = {}
    for slot in slots:
        groups.setdefault(id(slot.tensor), []).append(slot)
    return groups.values()


def _on_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if tensor.is_meta:  # declared by the architecture, absent from the file: ComfyUI loads such weights as zeros
        return torch.zeros(tensor.shape, dtype=tensor.dtype, device=device)
    return tensor if tensor.device == device else tensor.detach().to(device)


def slots_of_module(module: nn.Module) -> dict[str, TensorSlot]:
    """Every parameter and buffer of a module by its full name, buffers that are not in the state dict included."""
    return {
        f"{path}.{attribute}" if path else attribute: TensorSlot(f"{path}.{attribute}", owner, attribute)
        for path, owner in module.named_modules(remove_duplicate=False)
        for tensors in (owner._parameters, owner._buffers)
        for attribute, tensor in tensors.items()
        if tensor is not None
    }
