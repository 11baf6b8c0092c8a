"""One call of a module on a donor: its arguments go there, and what it returns comes back or stays for the next."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from multigpu.multigpu_core.execution.nested import replace_tensors

from .remote_activations import CarriedTensor, RemoteActivations
from .transfer_cache import Sent, TransferCache


class RemoteCall:
    """From the arguments of one call to its result. A tensor that is passed twice is one tensor on the donor, too."""

    def __init__(self, remote: RemoteActivations, cache: TransferCache, device: torch.device) -> None:
        self._remote = remote
        self._cache = cache
        self._device = device
        self._originals: dict[int, Tensor] = {}  # by the identity of what the block was given for them
        self._given: dict[int, Tensor] = {}  # by the identity of the original
        self._sent: dict[int, Sent] = {}  # by the identity of the copy
        self._nested: list[Any] = []  # arguments that are no tensors, but may hold some

    def arrive(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments on the donor; dicts and lists in them hold donor tensors until `leave`."""
        moved = tuple(self._moved(value, place) for place, value in enumerate(args))
        return moved, {name: self._moved(value, name) for name, value in kwargs.items()}

    def leave(self, output: Any, *, stays: bool) -> Any:
        """What the caller gets; with `stays`, activations are carried on the donor. Restores the arguments."""
        self._remote.written_copies.synchronise()
        handed: dict[int, Tensor] = {}

        def hand_over(tensor: Tensor) -> Tensor:
            if id(tensor) not in handed:
                handed[id(tensor)] = self._carried(tensor) if stays else self._home(tensor)
            return handed[id(tensor)]

        def restore(tensor: Tensor) -> Tensor:
            original = self._originals.get(id(tensor))
            if original is not None or isinstance(tensor, CarriedTensor):
                return tensor if original is None else original
            return hand_over(tensor)

        for value in self._nested:
            replace_tensors(value, restore, in_place=True)
        return replace_tensors(output, hand_over)

    def _moved(self, value: Any, argument: Hashable) -> Any:
        def give(tensor: Tensor) -> Tensor:
            return self._give(tensor, argument)

        if isinstance(value, Tensor):  # most arguments are, and this is done for every block
            return give(value)
        self._nested.append(value)
        return replace_tensors(value, give, in_place=True)

    def _give(self, tensor: Tensor, argument: Hashable) -> Tensor:
        known = self._given.get(id(tensor))
        if known is not None:
            return known
        if isinstance(tensor, CarriedTensor):
            given = self._remote.put_down(tensor, self._device)
        elif tensor.device == self._remote.compute:
            sent = self._cache.send(tensor, self._device, argument)
            self._sent[id(sent.copy)] = sent
            self._remote.written_copies.add(tensor, sent.copy)
            given = sent.copy
        else:
            return tensor
        self._given[id(tensor)] = given
        self._originals[id(given)] = tensor
        return given

    def _carried(self, tensor: Tensor) -> Tensor:
        sent = self._sent.get(id(tensor))
        original = None if sent is not None and sent.is_changed else self._originals.get(id(tensor))
        return self._remote.carry(tensor) if original is None else original

    def _home(self, tensor: Tensor) -> Tensor:
        original = self._originals.get(id(tensor), tensor)
        if isinstance(original, CarriedTensor):
            return self._remote.bring_home(original)
        return (
            self._remote.device_copies.to(original, self._remote.compute)
            if original.device == self._device
            else original
        )
