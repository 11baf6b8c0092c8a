"""The inventory of a live module: any `nn.Module`, with or without its weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from multigpu.multigpu_core.allocation.formats.stored_tensor import StoredTensor

from .inventory import Inventory
from .of_tensors import inventory_of_tensors
from .stored_size import storage_dtype_name, tensor_bytes


def inventory_of_module(module: nn.Module) -> Inventory:
    """The blocks of `module` in execution order, its parameters and its persistent buffers under full names.

    Reads no weights and changes nothing: meta tensors count by their shape, quantised ones by what they store.
    Buffers that a state dict leaves out are left out here too. A tensor with several names counts once.
    """
    return inventory_of_tensors(_stored_tensors(module))


def _stored_tensors(module: nn.Module) -> list[StoredTensor]:
    found: dict[int, tuple[torch.Tensor, nn.Module, str]] = {}
    aliases: dict[int, list[str]] = {}
    tied: dict[int, list[str]] = {}
    for owner, name, tensor in _named_tensors(module):
        identity = id(tensor)
        if identity not in found:
            found[identity] = (tensor, owner, name)
        elif found[identity][1] is owner:
            aliases.setdefault(identity, []).append(name)
        else:
            tied.setdefault(identity, []).append(name)
    return [
        StoredTensor(
            name,
            storage_dtype_name(tensor),
            tensor_bytes(tensor),
            aliases=tuple(aliases.get(identity, ())),
            tied=tuple(tied.get(identity, ())),
        )
        for identity, (tensor, _, name) in found.items()
    ]


def _named_tensors(module: nn.Module) -> Iterator[tuple[nn.Module, str, torch.Tensor]]:
    """Every module's own tensors, module by module: parameters and buffers in one order of registration."""
    # PyTorch's public iterators cost a hundred times the walk itself, and none says whether a buffer is persistent.
    for path, owner in module.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for name, parameter in owner._parameters.items():
            if parameter is not None:
                yield owner, prefix + name, parameter
        for name, buffer in owner._buffers.items():
            if buffer is not None and name not in owner._non_persistent_buffers_set:
                yield owner, prefix + name, buffer
