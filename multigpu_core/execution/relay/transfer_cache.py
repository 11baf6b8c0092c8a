"""Copy what is the same for all blocks of a step to a donor once: positional encodings, text, guidance.

A tensor that was sent before is not sent again if nobody changed it since. Torch counts changes, but not in inference
mode; there an argument is taken for constant when it was so in the whole first step, compared bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple
from weakref import ref

import torch
from torch import Tensor

from multigpu.multigpu_core.execution.device_copies import DeviceCopies


class Sent(NamedTuple):
    """A tensor's copy on a donor, and the versions of both when it was made; None where torch counts none."""

    original: ref[Tensor]
    copy: Tensor
    copy_version: int
    original_version: int | None

    @property
    def is_changed(self) -> bool:
        """Whether the donor's block wrote into the copy."""
        return self.copy._version != self.copy_version


class Arguments:
    """Which arguments of a model's blocks are constant over a step: learned in the first one, for all forwards."""

    def __init__(self) -> None:
        self.is_learning = True
        self._same: set[Hashable] = set()
        self._varying: set[Hashable] = set()

    def note(self, argument: Hashable, *, is_same: bool) -> None:
        (self._same if is_same else self._varying).add(argument)

    def is_constant(self, argument: Hashable) -> bool:
        return argument in self._same and argument not in self._varying

    def end_step(self, *, is_complete: bool) -> None:
        """Stop learning if something was learned; a step that was broken off has taught nothing."""
        if not self.is_learning:
            return
        if is_complete:
            self.is_learning = not (self._same or self._varying)
        else:
            self._same.clear()
            self._varying.clear()


class TransferCache:
    """Copies of one forward, held only while the model holds their originals."""

    def __init__(self, arguments: Arguments, device_copies: DeviceCopies) -> None:
        self._device_copies = device_copies
        self._sent: dict[torch.device, dict[int, Sent]] = {}
        """By the identity of the original, which is in use again when that is gone."""
        self._arguments = arguments

    def send(self, tensor: Tensor, device: torch.device, argument: Hashable) -> Sent:
        """The copy of `tensor` on `device`; `argument` is the argument of the block under which it is passed."""
        sent_there = self._sent.setdefault(device, {})
        key = id(tensor)
        sent = sent_there.get(key)
        if sent is None or sent.original() is not tensor or not self._is_current(sent, tensor, argument):
            sent = sent_there[key] = self._copied(tensor, device, lambda _: sent_there.pop(key, None))
        return sent

    def end_step(self, *, is_complete: bool) -> None:
        """Drop the copies."""
        self._sent.clear()
        self._arguments.end_step(is_complete=is_complete)

    def _is_current(self, sent: Sent, tensor: Tensor, argument: Hashable) -> bool:
        if sent.is_changed:
            return False
        if sent.original_version is not None:
            return sent.original_version == tensor._version
        if self._arguments.is_learning:
            is_same = torch.equal(tensor, self._device_copies.to(sent.copy, tensor.device))
            self._arguments.note(argument, is_same=is_same)
            return is_same
        return self._arguments.is_constant(argument)

    def _copied(self, tensor: Tensor, device: torch.device, when_it_is_gone: Callable[[ref[Tensor]], object]) -> Sent:
        with torch.inference_mode(False):  # so that torch counts the changes of the copy
            copy = self._device_copies.to(tensor.detach(), device)
        version = None if tensor.is_inference() else tensor._version
        return Sent(ref(tensor, when_it_is_gone), copy, copy._version, version)
