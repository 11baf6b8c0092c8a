"""The tensors of a live model by the place that holds them, so that they can be moved one at a time."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import torch
from torch import nn

from multigpu.multigpu_core.allocation import Block


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
    def tensor(self) -> torch.Tensor:
        owner = self.owner
        tensor = owner._parameters.get(self.attribute)
        return owner._buffers[self.attribute] if tensor is None else tensor  # type: ignore[return-value]

    def put(self, tensor: torch.Tensor) -> None:
        """Let the owner hold `tensor` here; a parameter stays a parameter, whatever tensor class it is of."""
        owner = self.owner
        if self.attribute not in owner._parameters:
            owner._buffers[self.attribute] = tensor
        elif isinstance(tensor, nn.Parameter):
            owner._parameters[self.attribute] = tensor
        else:
            owner._parameters[self.attribute] = nn.Parameter(tensor, requires_grad=False)

    def move(self, device: torch.device) -> None:
        """Store the tensor on `device`. The copy that it leaves behind is freed as soon as nobody else holds it."""
        tensor = self.tensor
        if tensor.is_meta:  # declared by the architecture, absent from the file: ComfyUI loads such weights as zeros
            self.put(torch.zeros(tensor.shape, dtype=tensor.dtype, device=device))
        elif tensor.device != device:
            self.put(tensor.detach().to(device))


def slots_of_blocks(module: nn.Module, blocks: Iterable[Block]) -> dict[str, tuple[TensorSlot, ...]]:
    """The slots of each block of `module`, by block name.

    Raises:
        KeyError: a block names a tensor that the module does not have.
    """
    owners = dict(module.named_modules())
    slots: dict[str, tuple[TensorSlot, ...]] = {}
    for block in blocks:
        of_block = []
        for name in block.parameters:
            path, _, attribute = name.rpartition(".")
            owner = owners[path]
            if owner._parameters.get(attribute) is None and owner._buffers.get(attribute) is None:
                raise KeyError(name)
            of_block.append(TensorSlot(name, owner, attribute))
        slots[block.name] = tuple(of_block)
    return slots
